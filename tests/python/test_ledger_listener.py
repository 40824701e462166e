"""Requests that ended become rows: predicted beside the engine, never in its way."""

import logging
import threading
from pathlib import Path

import pytest

from hwledger_omlx.errors import LedgerError, ModelError
from hwledger_omlx.hooks.layer_memory import requests
from hwledger_omlx.memory import Ledger
from ledgers import MB, predict, record

FOLDER = Path("models/notes")


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.sqlite3") as opened:
        yield opened


def listening(ledger, predict=predict):
    ledger.listen(lambda model: FOLDER if model == "notes" else None, predict=predict, device="cpu")
    return ledger


def rows(ledger):
    ledger.flush()
    return ledger.rows()


def test_every_end_of_a_request_is_a_row(ledger):
    listening(ledger)
    requests.publish(record("done"))
    requests.publish(record("gone", finish_reason="cancelled", completion_tokens=0, prefill_s=0.0, ttft_s=0.0,
                            decode_s=0.0, peak_bytes=0))  # fmt: skip
    requests.publish(record("bad", finish_reason="error", decode_s=0.0))
    requests.publish(record("theirs", model_id="somebody else's"))
    done, gone, bad = rows(ledger)
    assert (done.request_id, done.model, done.device, done.finish_reason) == ("done", "notes", "cpu", "stop")
    assert (done.prompt_tokens, done.cached_tokens, done.completion_tokens) == (512, 128, 64)
    assert (done.queue_s, done.prefill_s, done.ttft_s, done.decode_s, done.total_s) == (0.25, 1.5, 1.75, 2.0, 3.75)
    assert (done.weights_bytes, done.kv_bytes, done.peak_bytes) == (8 * MB, 1 * MB, 12 * MB)
    assert (gone.finish_reason, gone.completion_tokens) == ("cancelled", 0)
    assert (gone.prefill_s, gone.ttft_s, gone.decode_s, gone.peak_bytes) == (None, None, None, None)
    assert (bad.finish_reason, bad.ttft_s, bad.decode_s) == ("error", 1.75, 0.0)


def test_the_planner_is_asked_for_what_was_done_and_on_another_thread(ledger):
    asked = []

    def asking(*arguments, **more):
        asked.append((*arguments, threading.current_thread()))
        return predict(*arguments, **more)

    listening(ledger, asking)
    requests.publish(record("a", batch_peak=3, kv_policy="k8v4"))
    requests.publish(record("b", cached_tokens=500))
    requests.publish(record("c", cached_tokens=512, prompt_tokens=512))
    first, restored, whole = rows(ledger)
    assert [each[:-1] for each in asked] == [
        (FOLDER, 576, 3, "k8v4", 384), (FOLDER, 576, 1, "16", 12), (FOLDER, 576, 1, "16", 1)
    ]  # fmt: skip
    assert all(each[-1] is not threading.current_thread() for each in asked)
    assert first.predicted_weights_bytes == 8 * MB
    assert first.predicted_kv_bytes == 576 * 1000 * 3
    assert (first.predicted_state_bytes, first.predicted_runtime_bytes) == (64, 0)
    assert (restored.predicted_activations_bytes, whole.predicted_activations_bytes) == (12, 1)
    assert first.predicted_peak_bytes == 8 * MB + 576 * 3000 + 384 + 64
    assert first.prediction_error is None


def test_what_was_fitted_is_predicted_from_then_on(ledger):
    listening(ledger)
    for number in range(10):
        requests.publish(record(str(number), peak_bytes=10 * MB))
    assert {row.predicted_runtime_bytes for row in rows(ledger)} == {0}
    (model,) = ledger.reconcile()
    assert model.runtime.bytes == 10 * MB - (8 * MB + 576 * 1000 + 64 + 384)
    requests.publish(record("next", peak_bytes=10 * MB))
    last = rows(ledger)[-1]
    assert last.predicted_runtime_bytes == model.runtime.bytes
    assert last.predicted_peak_bytes == last.peak_bytes
    assert ledger.reconcile()[0].runtime.bytes == model.runtime.bytes, "a fit does not feed on itself"


def test_a_request_that_cannot_be_predicted_is_recorded_with_the_reason(ledger, caplog):
    def failing(model_folder, tokens, concurrency, kv_policy, chunk_tokens, **_):
        if kv_policy == "16":
            raise ModelError("config.json names no model_type")
        return {"weights": 0}[kv_policy]

    listening(ledger, failing)
    with caplog.at_level(logging.WARNING):
        requests.publish(record("a"))
        requests.publish(record("b", kv_policy="8"))
        requests.publish(record("c", kv_policy="8"))
        first, other, _ = rows(ledger)
    assert first.prediction_error == "config.json names no model_type"
    assert other.prediction_error == "KeyError: '8'"
    assert (first.predicted_peak_bytes, first.peak_bytes) == (None, 12 * MB)
    assert "request b could not be predicted" in caplog.text
    assert caplog.text.count("could not be predicted") == 1, "a mistake is said once"


def test_without_a_planner_that_is_the_reason(ledger):
    listening(ledger, None)
    requests.publish(record("a"))
    assert rows(ledger)[0].prediction_error == "this ledger has no planner"


def test_a_slow_planner_keeps_nobody(ledger, monkeypatch, caplog):
    monkeypatch.setattr("hwledger_omlx.memory.ledger_listener._QUEUE_REQUESTS", 4)
    go_on = threading.Event()

    def waiting(*arguments, **more):
        go_on.wait()
        return predict(*arguments, **more)

    listening(ledger, waiting)
    for number in range(20):
        requests.publish(record(str(number)))
    stats = ledger.stats()
    assert stats.queued_rows + stats.dropped_rows["queue_full"] == 20
    assert 4 <= stats.queued_rows <= 5
    assert caplog.text.count("requests are not recorded") == 1
    go_on.set()
    assert len(rows(ledger)) == stats.queued_rows
    assert ledger.stats().queued_rows == 0


def test_a_record_that_is_none_costs_only_itself(ledger, caplog):
    listening(ledger)
    requests.publish(record("", prompt_tokens=1))
    requests.publish(record("a", peak_bytes=-1))
    requests.publish(record("b"))
    assert [each.request_id for each in rows(ledger)] == ["b"]
    assert ledger.stats().dropped_rows == {"no_row": 2}
    assert caplog.text.count("requests are not recorded") == 1


def test_closing_takes_what_ended_before_and_nothing_after(tmp_path):
    ledger = listening(Ledger.open(tmp_path / "ledger.sqlite3"))
    for number in range(50):
        requests.publish(record(str(number)))
    ledger.close()
    ledger.close()
    requests.publish(record("late"))
    assert [each.request_id for each in ledger.rows()] == [str(number) for number in range(50)]
    assert ledger.stats().dropped_rows == {}


def test_two_ledgers_of_one_path_record_a_request_once(ledger, tmp_path):
    listening(ledger)
    with listening(Ledger.open(tmp_path / "ledger.sqlite3")) as other:
        requests.publish(record("a"))
        other.flush()
        assert len(rows(ledger)) == 1
        assert sorted((ledger.stats().duplicate_rows, other.stats().duplicate_rows)) == [0, 1]


def test_it_listens_once(ledger):
    listening(ledger)
    with pytest.raises(LedgerError, match="listens already"):
        listening(ledger)
