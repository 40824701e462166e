"""Proves patch 004 on a fork whose loaders have changed: vectors and scores are those of the same model in NumPy.

The forward pass is written after Devlin et al., "BERT" (2018), and Vaswani et al., "Attention is all you need" (2017);
where the two models differ, after Liu et al., "RoBERTa" (2019): positions count from one past the padding's id, and the
first token's state goes through a layer with tanh before the classifier.
"""

import importlib
import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwledger_omlx.fork.load import LoadedFork

_TEXTS = ["The lighthouse keeper.", "", "A much longer text than the others, which is cut off where the positions end."]
_QUERY = "Who keeps it?"
_FAR = 1e-4


def self_test(loaded: "LoadedFork") -> str | None:
    """Every text's vector and score is that of NumPy, alone, in a batch and again."""
    with tempfile.TemporaryDirectory(prefix="hwledger-omlx-probe-") as folder:
        return _vectors(Path(folder)) or _scores(Path(folder))


def _vectors(folder: Path) -> str | None:
    import numpy as np

    from hwledger_omlx.fork import probe_encoder

    embedding = importlib.import_module("omlx.models.embedding")
    for kind, pooling in (("bert", None), ("bert", "cls_token"), ("xlm-roberta", None)):
        place = probe_encoder.write(folder / f"{kind}-{pooling}", kind, pooling=pooling)  # type: ignore[arg-type]
        model = embedding.MLXEmbeddingModel(str(place))
        model.load()
        wanted = [_vector(place, text, pooling) for text in _TEXTS]
        alone = [model.embed([text]).embeddings[0] for text in _TEXTS]
        for said in (model.embed(_TEXTS).embeddings, alone, model.embed(_TEXTS).embeddings):
            far = np.abs(np.asarray(said) - np.asarray(wanted)).max(axis=1)
            if far.max() > _FAR:
                return f"vectors of {kind} pooled by {pooling or 'mean'} are off by {far.tolist()}"
    return None


def _scores(folder: Path) -> str | None:
    import numpy as np

    from hwledger_omlx.fork import probe_encoder

    place = probe_encoder.write(folder / "reranker", "xlm-roberta-reranker")
    model = importlib.import_module("omlx.models.reranker").MLXRerankerModel(str(place))
    model.load()
    wanted = [_score(place, _QUERY, text) for text in _TEXTS]
    for said in (model.rerank(_QUERY, _TEXTS).scores, [model.rerank(_QUERY, [text]).scores[0] for text in _TEXTS]):
        far = np.abs(np.asarray(said) - np.asarray(wanted))
        if far.max() > _FAR:
            return f"scores of xlm-roberta are off by {far.tolist()}"
    return None


def _vector(place: Path, text: str, pooling: str | None) -> Any:
    import numpy as np

    states = _states(place, (text,))
    vector = states[0] if pooling == "cls_token" else states.mean(axis=0)
    return vector / np.linalg.norm(vector)


def _score(place: Path, query: str, text: str) -> float:
    import numpy as np

    weights = _weights(place)
    first = np.tanh(_linear(weights, "classifier.dense", _states(place, (query, text))[0]))
    return float(1 / (1 + np.exp(-_linear(weights, "classifier.out_proj", first)[0])))


def _states(place: Path, texts: tuple[str, ...]) -> Any:
    """`[tokens, hidden]` after the last layer, for one text or a pair, without padding."""
    import numpy as np
    from tokenizers import Tokenizer

    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    weights = {name.removeprefix("roberta."): array for name, array in _weights(place).items()}
    begin = 0 if config["model_type"] == "bert" else config["pad_token_id"] + 1
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(config["max_position_embeddings"] - begin)
    ids = np.asarray(tokenizer.encode(*texts).ids)
    states = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.token_type_embeddings.weight"][0]
    states = states + weights["embeddings.position_embeddings.weight"][np.arange(begin, begin + len(ids))]
    states = _norm(weights, "embeddings.LayerNorm", states)
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        attended = _attention(weights, f"{at}attention.", states, config["num_attention_heads"])
        states = _norm(weights, f"{at}attention.output.LayerNorm", states + attended)
        inner = _linear(weights, f"{at}intermediate.dense", states)
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / 2**0.5))
        states = _norm(weights, f"{at}output.LayerNorm", states + _linear(weights, f"{at}output.dense", inner))
    return states


def _attention(weights: dict[str, Any], at: str, states: Any, heads: int) -> Any:
    import numpy as np

    tokens, hidden = states.shape
    query, key, value = (
        _linear(weights, f"{at}self.{part}", states).reshape(tokens, heads, -1).swapaxes(0, 1)
        for part in ("query", "key", "value")
    )
    odds = np.exp(query @ key.swapaxes(1, 2) / (hidden / heads) ** 0.5)
    seen = (odds / odds.sum(axis=-1, keepdims=True)) @ value
    return _linear(weights, f"{at}output.dense", seen.swapaxes(0, 1).reshape(tokens, hidden))


def _linear(weights: dict[str, Any], name: str, states: Any) -> Any:
    return states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(weights: dict[str, Any], name: str, states: Any) -> Any:
    centred = states - states.mean(axis=-1, keepdims=True)
    scaled = centred / (states.var(axis=-1, keepdims=True) + 1e-12) ** 0.5
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _weights(place: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    loaded: dict[str, Any] = load_file(str(place / "model.safetensors"))
    return loaded
