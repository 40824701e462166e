"""An engine and its ledger: on by default, off when asked, and never in the way of an answer."""

import concurrent.futures
import logging
from pathlib import Path

import pytest

import hwledger_omlx as hw
from hwledger_omlx.errors import LedgerError
from hwledger_omlx.hooks.layer_memory import requests
from hwledger_omlx.memory.ledger import Ledger, default_path
from ledgers import record


def told(ledger: Ledger) -> list[str]:
    """The requests that a test made up, in order."""
    return [row.request_id for row in ledger.rows() if row.request_id.startswith("told")]


def test_requests_of_an_engine_are_recorded_and_outlive_it(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "here" / "ledger.sqlite3"
    with hw.Engine(tiny_model, cache=None, ledger=path, progress=False) as engine:
        assert engine.ledger.path == path
        assert engine.ledger.state == "running"
        model = next(iter(engine.models))
        for number, (end, tokens) in enumerate([("length", 5), ("cancelled", 3), ("error", 1)]):
            usage = engine.generate("Once upon a time", max_tokens=tokens, temperature=0.0).usage
            requests.publish(
                record(
                    f"told {number}",
                    model_id=model,
                    finish_reason=end,
                    prompt_tokens=usage.prompt_tokens,
                    cached_tokens=usage.cached_tokens,
                    completion_tokens=usage.completion_tokens,
                )
            )
        requests.publish(record("told of another's", model_id="another's"))
        engine.ledger.flush()
        assert told(engine.ledger) == ["told 0", "told 1", "told 2"]
        engine.unload(model)
        requests.publish(record("told 3", model_id=model))
    assert engine.ledger.state == "closed"
    requests.publish(record("told 4", model_id=model))
    rows = [row for row in engine.ledger.rows() if row.request_id.startswith("told")]
    assert [row.request_id for row in rows] == ["told 0", "told 1", "told 2", "told 3"]
    assert [(row.finish_reason, row.prompt_tokens, row.completion_tokens) for row in rows[:3]] == [
        ("length", 16, 5), ("cancelled", 16, 3), ("error", 16, 1)
    ]  # fmt: skip
    assert {row.device for row in rows} == {"cpu"}
    assert {row.model for row in rows} == {model}
    assert engine.ledger.stats().dropped_rows == {}


def test_every_request_of_an_engine_has_its_row(tiny_model: Path, tmp_path: Path) -> None:
    prompt = "The quick brown fox jumps over the lazy dog. " * 8
    with hw.Engine(tiny_model, cache_dir=tmp_path / "kv", ledger=tmp_path / "l.sqlite3", progress=False) as engine:
        answers = [engine.generate(prompt, max_tokens=6, temperature=0.0) for _ in range(2)]
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            batch = [threads.submit(engine.generate, prompt + end, max_tokens=40, temperature=0.0) for end in "ab"]
            answers += [each.result() for each in batch]
        stream = engine.stream(prompt, max_tokens=4000, temperature=0.0)
        next(event for event in stream if isinstance(event, hw.TokenEvent))
        stream.close()
    rows = {row.request_id: row for row in engine.ledger.rows()}
    assert len(rows) == len(answers) + 1
    for answer in answers:
        row = rows.pop(answer.request_id)
        assert row.finish_reason == answer.finish_reason
        assert (row.prompt_tokens, row.cached_tokens, row.completion_tokens) == (
            answer.usage.prompt_tokens, answer.usage.cached_tokens, answer.usage.completion_tokens
        )  # fmt: skip
        assert row.weights_bytes is not None
        assert row.kv_bytes is not None
        assert row.peak_bytes is not None
        assert row.peak_bytes > row.weights_bytes + row.kv_bytes > row.kv_bytes > 0
        assert row.ttft_s is not None
        assert row.total_s is not None
        assert row.total_s >= row.ttft_s > 0
    (cancelled,) = rows.values()
    assert cancelled.finish_reason == "cancelled"


def test_the_ledger_is_beside_the_cache_unless_it_is_off(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWLEDGER_OMLX_HOME", str(tmp_path / "home"))
    with hw.Engine(tiny_model, cache=None, ledger=False, progress=False) as engine:
        assert engine.ledger.state == "off"
        engine.generate("Once", max_tokens=1)
        engine.ledger.flush()
        with pytest.raises(LedgerError, match="open the engine with ledger=True"):
            engine.ledger.rows()
        assert not default_path().exists()
    with hw.Engine(tiny_model, cache=None, progress=False) as engine:
        assert engine.ledger.path == default_path()
        assert default_path().is_file()


@pytest.mark.parametrize("trouble", ["damaged", "folder", "no folder"])
def test_an_engine_whose_ledger_cannot_be_runs_without(
    tiny_model: Path, tmp_path: Path, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ledger.sqlite3"
    if trouble == "folder":
        path.mkdir()
    else:
        path.write_text("by no means a database\n" * 100)
    place = path / "below" if trouble == "no folder" else path
    with caplog.at_level(logging.WARNING), hw.Engine(tiny_model, cache=None, ledger=place, progress=False) as engine:
        assert engine.ledger.state.startswith("off: ")
        assert str(place) in engine.ledger.state
        assert engine.generate("Once upon a time", max_tokens=3).usage.completion_tokens == 3
    assert caplog.text.count("requests are not recorded") == 1


@pytest.mark.parametrize("ledger", [1, 0, None, "", ["a"]])
def test_settings_that_cannot_be(tiny_model: Path, ledger: object) -> None:
    with pytest.raises(hw.EngineError, match="ledger must be True, False or the path of a database"):
        hw.Engine(tiny_model, ledger=ledger)  # type: ignore[arg-type]


def test_an_engine_that_was_not_started_has_none(tiny_model: Path) -> None:
    with pytest.raises(hw.EngineError, match="not started"):
        hw.AsyncEngine(tiny_model).ledger  # noqa: B018
