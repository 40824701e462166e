"""The engine on a tiny model: streams, batches, cancels, survives bad input, and ends without a trace."""

import asyncio
import concurrent.futures
import json
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import hwledger_omlx as hw
from hwledger_omlx.engine.request import GenerateRequest
from hwledger_omlx.models import NOTES

LONG = "The quick brown fox jumps over the lazy dog. " * 20
CHAT = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def engine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[hw.Engine]:
    with hw.Engine(tiny_model, cache_dir=tmp_path_factory.mktemp("kv")) as opened:
        yield opened


def test_a_stream_is_the_whole_answer_in_parts(engine: hw.Engine) -> None:
    events = list(engine.stream(LONG, max_tokens=12, temperature=0.0))
    kinds = [event.kind for event in events]
    assert kinds == sorted(kinds, key=["progress", "token", "done"].index)
    assert isinstance(events[-1], hw.DoneEvent)
    result = events[-1].result
    tokens = [event for event in events if isinstance(event, hw.TokenEvent)]
    assert tuple(token for event in tokens for token in event.token_ids) == result.token_ids
    assert "".join(event.text for event in tokens) == result.text
    assert result.usage.completion_tokens == len(result.token_ids) == 12
    assert (result.finish_reason, result.model) == ("length", "tiny")
    assert 0.0 < result.timings.ttft_s <= result.timings.total_s
    assert engine.generate(LONG, max_tokens=12, temperature=0.0).token_ids == result.token_ids


def test_a_continued_text_keeps_its_first_space() -> None:
    with hw.Engine(NOTES, cache=None) as engine:
        texts = {
            engine.generate(f"Once upon a time, a{tail}", max_tokens=3, temperature=0.0).text for tail in ("", " kind")
        }
    assert {text[:1] for text in texts} == {" "}


def test_a_second_run_of_a_prompt_is_restored_from_the_cache(engine: hw.Engine) -> None:
    prompt = "Restored. " * 80
    cold = engine.generate(prompt, max_tokens=8, temperature=0.0)
    warm = engine.generate(prompt, max_tokens=8, temperature=0.0)
    assert cold.usage.cached_tokens == 0
    assert 0 < warm.usage.cached_tokens < warm.usage.prompt_tokens
    assert warm.token_ids == cold.token_ids


def test_progress_covers_the_prompt(tiny_model: Path) -> None:
    with hw.Engine(tiny_model, cache=None) as engine:
        prompt = "word " * 600
        events = list(engine.stream(prompt, max_tokens=1))
    done = [event.done_tokens for event in events if isinstance(event, hw.ProgressEvent)]
    totals = {event.total_tokens for event in events if isinstance(event, hw.ProgressEvent)}
    assert done == sorted(done)
    assert len(totals) == 1
    assert (done[0], totals.pop()) == (0, 3000)
    assert len(set(done)) > 3


def test_same_seed_same_text_also_in_company(engine: hw.Engine) -> None:
    def drawn(seed: int) -> tuple[int, ...]:
        return engine.generate(CHAT, max_tokens=24, temperature=1.0, seed=seed).token_ids

    alone = drawn(7)
    results: dict[int, tuple[int, ...]] = {}
    threads = [threading.Thread(target=lambda s=seed: results.update({s: drawn(s)})) for seed in (7, 8, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[7] == alone
    assert len({*results.values()}) == 3


def test_stop_sequences_end_the_text_before_them(engine: hw.Engine) -> None:
    whole = engine.generate(LONG, max_tokens=24, temperature=0.0).text
    inner = whole[3:5]
    cut = engine.generate(LONG, max_tokens=24, temperature=0.0, stop=[inner, "never seen"])
    assert cut.text == whole[: whole.index(inner)]
    assert cut.finish_reason == "stop"
    untouched = engine.generate(LONG, max_tokens=24, temperature=0.0, stop=whole + "!")
    assert (untouched.text, untouched.finish_reason) == (whole, "length")


def test_a_cancelled_request_ends_its_stream_and_nothing_else(engine: hw.Engine) -> None:
    stream = engine.stream(LONG, max_tokens=3000, temperature=0.0, request_id="long")
    first = next(event for event in stream if event.kind == "token")
    assert first.request_id == "long"
    assert engine.cancel("long")
    *_, last = stream
    assert isinstance(last, hw.DoneEvent)
    assert last.result.finish_reason == "cancelled"
    assert 0 < len(last.result.token_ids) < 3000
    assert not engine.cancel("long")
    assert engine.generate(CHAT, max_tokens=2).finish_reason == "length"


def test_a_request_that_is_cancelled_before_its_first_step_is_answered(engine: hw.Engine) -> None:
    session, events = engine._session, queue.SimpleQueue[object]()

    async def begin_and_end() -> bool:
        session._begin(GenerateRequest.parse(LONG, request_id="early"), events.put)
        return session._requests.end("early")

    assert session.run(begin_and_end())
    last = events.get(timeout=60)
    assert isinstance(last, hw.DoneEvent)
    assert (last.result.finish_reason, last.result.token_ids) == ("cancelled", ())
    assert not engine.cancel("early")


def test_leaving_a_stream_cancels_it(engine: hw.Engine) -> None:
    for event in engine.stream(LONG, max_tokens=3000, request_id="left"):
        if event.kind == "token":
            break
    assert not engine.cancel("left")


def test_a_request_id_is_taken_while_it_runs(engine: hw.Engine) -> None:
    stream = engine.stream(LONG, max_tokens=3000, request_id="twice")
    next(stream)
    with pytest.raises(hw.RequestError, match="'twice' is running"):
        engine.generate(CHAT, request_id="twice")
    engine.cancel("twice")
    list(stream)


def test_the_engine_survives_bad_requests(engine: hw.Engine) -> None:
    with pytest.raises(hw.RequestError, match=r"prompt has \d+ tokens and tiny takes 4096"):
        engine.generate("word " * 4096)
    with pytest.raises(hw.RequestError, match="unknown request field 'tempreture'; did you mean 'temperature'"):
        engine.generate("x", tempreture=0.0)  # type: ignore[call-arg]
    with pytest.raises(hw.RequestError, match=r"no model 'other' is loaded \(loaded: tiny\)"):
        engine.generate("x", model="other")
    assert engine.generate("x", max_tokens=1).token_ids


def test_a_template_that_refuses_is_the_requests_problem(engine: hw.Engine, tiny_model: Path, tmp_path: Path) -> None:
    strict = Path(shutil.copytree(tiny_model, tmp_path / "strict"))
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}hi"
    for file in strict.glob("chat_template.*"):
        file.unlink()
    config = json.loads((strict / "tokenizer_config.json").read_text())
    (strict / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    engine.load(strict)
    with pytest.raises(hw.RequestError, match="chat template refuses these messages: no system role"):
        engine.generate([{"role": "system", "content": "x"}], model="strict")
    assert engine.generate(CHAT, model="strict", max_tokens=1).token_ids
    engine.unload("strict")


def test_a_second_model_comes_and_goes(engine: hw.Engine, tmp_path: Path) -> None:
    from hwledger_omlx.fork import probe_model

    other = probe_model.write(tmp_path / "other", seed=1)
    assert engine.load(other) == "other"
    assert engine.load(other) == "other"
    assert set(engine.models) == {"tiny", "other"}
    mine, theirs = (engine.generate(LONG, max_tokens=8, temperature=0.0, model=name) for name in ("tiny", "other"))
    assert (mine.model, theirs.model) == ("tiny", "other")
    assert mine.token_ids != theirs.token_ids
    namesake = probe_model.write(tmp_path / "elsewhere" / "other")
    with pytest.raises(hw.ModelError, match="a model named other is loaded from"):
        engine.load(namesake)
    engine.unload("other")
    with pytest.raises(hw.ModelError, match="no model 'other' is loaded"):
        engine.unload("other")
    with pytest.raises(hw.RequestError, match="no model 'other'"):
        engine.generate("x", model="other")


def test_a_model_that_cannot_be_loaded_leaves_the_engine_whole(
    engine: hw.Engine, tiny_model: Path, tmp_path: Path
) -> None:
    alien = Path(shutil.copytree(tiny_model, tmp_path / "alien"))
    config = json.loads((alien / "config.json").read_text())
    (alien / "config.json").write_text(json.dumps({**config, "model_type": "alien"}))
    with pytest.raises(hw.ModelError, match="architecture 'alien' is not supported"):
        engine.load(alien)
    misfit = Path(shutil.copytree(tiny_model, tmp_path / "misfit"))
    (misfit / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    with pytest.raises(hw.ModelError, match=r"misfit \(qwen3\) could not be loaded: "):
        engine.load(misfit)
    assert set(engine.models) == {"tiny"}
    assert engine.generate("x", max_tokens=1).token_ids


def test_models_are_found_in_every_layout(tiny_model: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--Mini" / "snapshots" / ("a" * 40)
    shutil.copytree(tiny_model, snapshot)
    nested = Path(shutil.copytree(tiny_model, tmp_path / "outer"))
    shutil.copytree(tiny_model, nested / "inner")
    with hw.Engine(snapshot, cache=None) as engine:
        assert engine.load(nested) == "outer"
        assert engine.load(tiny_model) == "tiny"
        told = {name: engine.generate(LONG, model=name, max_tokens=4, temperature=0.0) for name in engine.models}
        assert {name: result.model for name, result in told.items()} == {
            name: name for name in ("Mini", "outer", "tiny")
        }
        assert len({result.token_ids for result in told.values()}) == 1
        engine.unload("outer")


def test_models_loaded_at_the_same_time(tiny_model: Path, tmp_path: Path) -> None:
    copies = [Path(shutil.copytree(tiny_model, tmp_path / name)) for name in ("a", "b", "b2", "c")]
    with hw.Engine(tiny_model, cache=None) as engine:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(engine.load, [*copies, *copies]))
        assert ids == ["a", "b", "b2", "c"] * 2
        assert all(engine.generate("x", model=name, max_tokens=1).model == name for name in ids)


def test_an_id_can_be_used_again_at_once(engine: hw.Engine) -> None:
    for _ in range(3):
        stream = engine.stream(LONG, max_tokens=3000, request_id="again")
        next(stream)
        engine.cancel("again")
        list(stream)
        assert engine.generate(CHAT, max_tokens=2, request_id="again").finish_reason in {"length", "stop"}
        for _ in engine.stream(LONG, max_tokens=3000, request_id="again"):
            break


def test_what_the_model_does_not_allow_is_taken_as_far_as_it_goes(tiny_model: Path, tmp_path: Path) -> None:
    short = Path(shutil.copytree(tiny_model, tmp_path / "short"))
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 40}))
    with hw.Engine(short, cache=None) as engine:
        result = engine.generate("hello", max_tokens=10**6, temperature=1.0, top_k=10**6, seed=1)
        assert result.usage.prompt_tokens + result.usage.completion_tokens <= 40
        with pytest.raises(hw.RequestError, match="tokenizer does not take this prompt"):
            engine.generate("\ud800")


def test_a_cache_folder_that_cannot_be_used_is_said(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(hw.EngineError, match=r"KV cache cannot be kept in .*; give another cache_dir, or cache=None"):
        hw.Engine(tiny_model, cache_dir=tmp_path / "file")
    with pytest.raises(hw.EngineError, match="cache_dir must be a folder, not 5"):
        hw.Engine(tiny_model, cache_dir=5)  # type: ignore[arg-type]
    with pytest.raises(hw.EngineError, match="max_concurrent_requests must be at least 1"):
        hw.Engine(tiny_model, max_concurrent_requests=True)
    assert hw.EngineConfig(model="m", cache_dir="~/kv").cache_dir == Path.home() / "kv"


def test_engines_side_by_side_agree(engine: hw.Engine, tiny_model: Path, tmp_path: Path) -> None:
    with hw.Engine(tiny_model, cache_dir=tmp_path) as second:
        assert second.generate(LONG, max_tokens=8, temperature=0.0).token_ids == (
            engine.generate(LONG, max_tokens=8, temperature=0.0).token_ids
        )
    assert engine.generate("x", max_tokens=1).token_ids


async def test_concurrent_requests_are_batched_and_none_is_refused(tiny_model: Path) -> None:
    async with hw.AsyncEngine(tiny_model, cache=None, max_concurrent_requests=4) as engine:
        texts = [f"{number} {LONG}" for number in range(50)]
        together = await asyncio.gather(*(engine.generate(text, max_tokens=6, temperature=0.0) for text in texts))
        alone = [await engine.generate(text, max_tokens=6, temperature=0.0) for text in texts[:3]]
    assert [result.finish_reason for result in together] == ["length"] * 50
    assert [result.token_ids for result in together[:3]] == [result.token_ids for result in alone]


async def test_an_async_stream_and_its_cancellation(tiny_model: Path) -> None:
    async with hw.AsyncEngine(tiny_model, cache=None) as engine:
        kinds = [event.kind async for event in engine.stream(CHAT, max_tokens=4)]
        assert kinds[-1] == "done"
        task = asyncio.create_task(engine.generate(LONG, max_tokens=3000, request_id="given up"))
        async for event in engine.stream(CHAT, max_tokens=2):
            assert event.kind in {"progress", "token", "done"}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not await engine.cancel("given up")
        with pytest.raises(hw.RequestError):
            engine.stream("")


def test_closing_ends_streams_and_threads(tiny_model: Path, tmp_path: Path) -> None:
    before = {thread for thread in threading.enumerate() if not thread.name.startswith("mlx-global")}
    engine = hw.Engine(tiny_model, cache_dir=tmp_path)
    stream = engine.stream(LONG, max_tokens=3000)
    next(stream)
    engine.close()
    *_, last = stream
    assert isinstance(last, hw.DoneEvent)
    assert last.result.finish_reason == "cancelled"
    engine.close()
    with pytest.raises(hw.EngineClosedError, match="was closed; open a new one"):
        engine.generate("x")
    after = {thread for thread in threading.enumerate() if not thread.name.startswith("mlx-global")}
    assert after <= before


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


FORK = "import multiprocessing as m; p = m.get_context('fork').Process(target=int); p.start(); p.join(); engine.close()"


@pytest.mark.parametrize(
    "ending", ["engine.close()", "", "raise SystemExit(0)", "del engine", "del engine; import gc; gc.collect()", FORK]
)
def test_a_process_ends_cleanly_whether_or_not_the_engine_was_closed(tiny_model: Path, ending: str) -> None:
    code = (
        "import sys, hwledger_omlx as hw\n"
        "engine = hw.Engine(sys.argv[1], cache=None)\n"
        "print(len(engine.generate('x', max_tokens=3).token_ids))\n"
    )
    ended = run_python(code + ending, tiny_model)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "3\n", "")


def test_the_engine_works_under_a_running_event_loop(tiny_model: Path) -> None:
    async def cell() -> int:
        with hw.Engine(tiny_model, cache=None) as engine:
            return len(engine.generate("x", max_tokens=3).token_ids)

    assert asyncio.run(cell()) == 3


def test_what_the_engine_runs_on_is_told(engine: hw.Engine) -> None:
    assert engine.fork.version
    assert {hook.status for hook in engine.hooks} <= {"applied", "inapplicable"}


def test_requests_that_race_with_the_end_are_answered(tiny_model: Path) -> None:
    engine = hw.Engine(tiny_model, cache=None)
    ends: list[str] = []

    def ask() -> None:
        try:
            while True:
                ends.append(engine.generate("x", max_tokens=2).finish_reason)
        except hw.EngineClosedError:
            ends.append("closed")

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    engine.generate("x", max_tokens=1)
    engine.close()
    for asker in askers:
        asker.join(timeout=60)
    assert not any(asker.is_alive() for asker in askers)
    assert ends.count("closed") == 8
