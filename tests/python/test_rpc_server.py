"""The life of a JSON-RPC server, in this process and over pipes: clients that read slowly, go away, or ask too much."""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import psutil
import pytest

import hwledger_omlx as hw
from hwledger_omlx.engine import upstream
from hwledger_omlx.memory.records import Figure, LayerUse, MemoryEvent
from hwledger_omlx.rpc import RpcServer, RpcSettings, end_soon
from hwledger_omlx.rpc.calls import Calls
from hwledger_omlx.rpc.fields import LIST, NUMBER, TEXT, WHOLE, Field, InvalidParamsError, bind
from hwledger_omlx.rpc.memory_stream import _Samples

PATIENCE_S = 120
NO_MODEL = hw.EngineConfig(model=None, cache=None, ledger=False)


class Served:
    """A server on a thread, and the client's ends of its pipes."""

    def __init__(self, **settings: Any) -> None:
        reading, self.to = os.pipe()
        self.fro, writing = os.pipe()
        self.server = RpcServer(RpcSettings(engine=NO_MODEL, **settings), reading, writing)
        self.outcome: int | BaseException | None = None
        self._ends = [reading, writing]
        self._buffer = b""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self.server.run()
        except hw.Error as error:
            self.outcome = error

    def send(self, *messages: Mapping[str, Any]) -> None:
        rest = memoryview(b"".join(json.dumps({"jsonrpc": "2.0", **each}).encode() + b"\n" for each in messages))
        while rest:
            rest = rest[os.write(self.to, rest) :]

    def take(self) -> Any:
        while b"\n" not in self._buffer:
            read = os.read(self.fro, 65536)
            assert read, "the server said no more"
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def answer(self, request_id: object) -> Any:
        while (message := self.take()).get("id") != request_id:
            assert "method" in message, message
        return message

    def close_input(self) -> None:
        os.close(self.to)
        self.to = -1

    def close_output(self) -> None:
        os.close(self.fro)
        self.fro = -1

    def ended(self) -> int | BaseException | None:
        # The server has copies of its ends, once it has begun; these would keep the pipes open for ever.
        while self.server._connection is None and self._thread.is_alive():
            self._thread.join(0.01)
        for end in self._ends:
            os.close(end)
        self._ends = []
        if self.to >= 0:
            self.close_input()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        if self.fro >= 0:
            self.close_output()
        return self.outcome


def generate(request_id: str, max_tokens: int, **params: Any) -> dict[str, Any]:
    asked = {"prompt": "on and on", "max_tokens": max_tokens, "temperature": 0, "request_id": request_id, **params}
    return {"id": request_id, "method": "generate", "params": asked}


def wait_for_both(served: Served, made: threading.Semaphore) -> None:
    """Has `made` count the requests that have ended in the engine."""
    submit = served.server.session.submit

    def submitted(request: Any, deliver: Any) -> str:
        def delivered(event: Any) -> None:
            deliver(event)
            if isinstance(event, hw.DoneEvent | Exception):
                made.release()

        return submit(request, delivered)

    served.server.session.submit = submitted  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = {thread for thread in threading.enumerate() if thread.name.startswith("hwledger-rpc")}
    yield
    left = {thread for thread in threading.enumerate() if thread.name.startswith("hwledger-rpc")} - before
    for thread in left:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), thread


def test_the_end_of_input_lets_what_runs_end(tiny_model: Path) -> None:
    served = Served(models=[tiny_model])
    served.send(generate("r", 40))
    while served.take().get("method") != "token":
        pass
    served.close_input()
    assert served.answer("r")["result"]["completion_tokens"] == 40
    assert served.ended() == 0


def test_what_outlasts_the_deadline_is_cancelled_and_answered(tiny_model: Path) -> None:
    served = Served(models=[tiny_model], shutdown_s=0.2)
    served.send(generate("r", 3900))
    while served.take().get("method") != "token":
        pass
    end_soon()
    assert served.answer("r")["result"]["stopped_reason"] == "cancelled"
    assert served.ended() == 0


@pytest.mark.parametrize("busy", [False, True])
def test_a_client_that_reads_no_more_ends_it(tiny_model: Path, busy: bool) -> None:
    served = Served(models=[tiny_model], shutdown_s=3600)
    served.send({"id": 1, "method": "health"}, *([generate("r", 3900)] if busy else []))
    served.answer(1)
    # The test's copy of the server's end must go too, or nobody is told.
    os.close(served._ends.pop())
    served.close_output()
    served._thread.join(PATIENCE_S)
    error = served.ended()
    assert isinstance(error, hw.EngineError)
    assert str(error).startswith("the client closed its end")


def test_a_client_that_reads_late_misses_nothing_and_holds_up_nobody(tiny_model: Path) -> None:
    """The pipe is full long before the end, so that most of the text waits in the queue."""
    asked = 700
    served = Served(models=[tiny_model], queue_bytes=2000)
    made = threading.Semaphore(0)
    wait_for_both(served, made)
    served.send(generate("a", asked), generate("b", asked), *({"id": n, "method": "health"} for n in range(3)))
    # Both come to their ends although nobody reads a word.
    for _ in range(2):
        assert made.acquire(timeout=PATIENCE_S)
    texts = {"a": "", "b": ""}
    results, pieces = {}, 0
    while len(results) < 5:
        message = served.take()
        if message.get("method") == "token":
            pieces += 1
            texts[message["params"]["request_id"]] += message["params"]["text"]
        else:
            results[message["id"]] = message["result"]
    again = {}
    for name in ("c", "d"):
        served.send(generate(name, asked, stream=False))
    while len(again) < 2:
        message = served.take()
        again[message["id"]] = message["result"]
    assert [results[name]["completion_tokens"] for name in texts] == [asked, asked]
    assert pieces < 2 * asked  # some were joined
    assert texts["a"] == texts["b"] == again["c"]["text"] == again["d"]["text"]
    assert served.ended() == 0


def test_more_calls_than_there_may_be_are_refused_and_the_rest_is_served(tiny_model: Path) -> None:
    served = Served(models=[tiny_model], max_calls=3)
    served.send(*(generate(f"r{number}", 30) for number in range(10)), {"id": "h", "method": "health"})
    answers = {}
    while len(answers) < 11:
        message = served.take()
        if "id" in message:
            answers[message["id"]] = message
    refused = [each["error"] for each in answers.values() if "error" in each]
    assert len(refused) == 7
    assert {each["code"] for each in refused} == {-32000}
    assert all("3 calls are under way" in each["message"] for each in refused)
    served.send(generate("after", 3))
    assert served.answer("after")["result"]["completion_tokens"] == 3
    assert served.ended() == 0


def test_a_flood_of_interleaved_calls_is_answered_one_by_one(tiny_model: Path) -> None:
    served = Served(models=[tiny_model], queue_bytes=5000)
    calls = [{"id": number, "method": "health" if number % 3 else "nothing"} for number in range(5000)]
    streams = [generate(f"r{number}", 20) for number in range(8)]
    sending = threading.Thread(target=served.send, args=(*calls[:2500], *streams, *calls[2500:]))
    sending.start()
    answers: dict[Any, Any] = {}
    while len(answers) < len(calls) + len(streams):
        message = served.take()
        if "id" in message:
            assert message["id"] not in answers
            answers[message["id"]] = message
    sending.join()
    assert all(("error" in answers[number]) is (number % 3 == 0) for number in range(5000))
    assert all(answers[each["id"]]["result"]["completion_tokens"] == 20 for each in streams)
    assert served.ended() == 0


def test_the_report_of_memory_is_mlxs_own_account_and_null_where_that_is_not_known(tiny_model: Path) -> None:
    served = Served(models=[tiny_model])
    mb = 2**20

    def report() -> Any:
        served.send({"id": "m", "method": "memory_report"})
        return served.answer("m")["result"]

    def by_mlx() -> float:
        return (mx.get_active_memory() + mx.get_cache_memory()) / mb

    mx.clear_cache()  # what is kept there is nothing to a new array then
    first = report()
    kept = mx.zeros((3 * mb,), dtype=mx.uint8)
    mx.eval(kept)
    assert report()["used_by_mlx_mb"] == by_mlx() == pytest.approx(first["used_by_mlx_mb"] + 3, abs=0.1)
    assert first["total_unified_mb"] == psutil.virtual_memory().total / mb
    assert first["kv_cache_mb"] == 0
    memory = served.server.session.memory()
    unknown: Figure[int] = Figure(None, "unavailable", "nobody can tell")
    (model,) = memory.models
    known = Figure(7, "measured", "by the test")
    layers = tuple(LayerUse(each, (), (), (), known, known, (unknown, known)[each]) for each in range(2))
    blind = replace(
        memory,
        mlx=replace(memory.mlx, device_bytes=unknown, cache_bytes=unknown),
        models=(replace(model, weights_bytes=unknown, kv_allocated_bytes=unknown, layers=layers),),
    )
    served.server.session.memory = lambda: blind  # type: ignore[method-assign]
    said = report()
    assert {said[name] for name in ("total_unified_mb", "used_by_mlx_mb", "kv_cache_mb")} == {None}
    assert said["models"][0]["weights_mb"] is None
    assert [layer["kv_bytes"] for layer in said["models"][0]["layers"]] == [None, 14]
    assert served.ended() == 0


def test_what_cannot_start_is_said() -> None:
    served = Served(models=["/no/such/model"])
    error = served.ended()
    assert isinstance(error, hw.ModelNotFoundError)


def test_a_fault_of_a_method_is_an_internal_error() -> None:
    def reload() -> Mapping[str, Any]:
        raise KeyError("nobody foresaw it")

    served = Served(reload=reload)
    served.send({"id": 1, "method": "config.reload"})
    error = served.answer(1)["error"]
    assert (error["code"], error["data"]["class"]) == (-32603, "KeyError")
    assert served.ended() == 0


def test_settings_that_cannot_be() -> None:
    with pytest.raises(hw.EngineError, match="named in models="):
        RpcSettings(engine=hw.EngineConfig(model="x"))
    with pytest.raises(hw.EngineError, match="shutdown_s must be a number of seconds above 0"):
        RpcSettings(engine=NO_MODEL, shutdown_s=0)
    with pytest.raises(hw.EngineError, match="max_calls must be at least 1"):
        RpcSettings(engine=NO_MODEL, max_calls=0)
    with pytest.raises(hw.EngineError, match="file descriptor 9999 cannot be used"):
        RpcServer(RpcSettings(engine=NO_MODEL), 9999, 1).run()


def test_parameters_are_bound_by_name_and_by_place() -> None:
    fields = {
        "a": Field(TEXT, "A."),
        "b": Field(WHOLE, "B.", 2),
        "c": Field(NUMBER, "C.", None),
        "d": Field(LIST, "D.", None),
    }
    assert bind(fields, {"a": "x", "b": None}) == {"a": "x", "b": 2, "c": None, "d": None}
    assert bind(fields, ["x", 3, 1.5, []]) == {"a": "x", "b": 3, "c": 1.5, "d": []}
    for given, why in (
        (None, "'a' is missing"),
        ({"a": 1}, "a must be a text, not 1"),
        ({"a": "x", "b": 1.0}, "b must be a whole number"),
        ({"a": "x", "c": False}, "c must be a number"),
        ({"a": "x", "zz": 1}, "known are: a, b, c, d"),
        (["x", 1, 1, [], 5], "4 parameters at most"),
    ):
        with pytest.raises(InvalidParamsError, match=why):
            bind(fields, given)


def test_calls_are_counted() -> None:
    calls = Calls(1)
    assert calls.wait_for_none(0)
    calls.begin()
    with pytest.raises(hw.EngineError, match="1 calls are under way"):
        calls.begin()
    assert not calls.wait_for_none(0)
    threading.Thread(target=calls.end).start()
    assert calls.wait_for_none(PATIENCE_S)


def _sample(number: int, **fields: Any) -> MemoryEvent:
    nothing: dict[str, Any] = dict.fromkeys(MemoryEvent.__dataclass_fields__)
    known = {
        "number": number,
        "missed": 0,
        "unix_s": float(number),
        "model_id": "m",
        "phase": "decode",
        "layer_bytes": (1,),
    }
    return MemoryEvent(**{**nothing, **known, **fields})


def test_samples_that_come_too_soon_are_counted_and_faults_have_a_rate() -> None:
    samples = _Samples(2.0)
    first = samples.take(_sample(0, page_faults=5, phase="prefill", mlx_peak_bytes=70), 0.0)
    assert samples.take(_sample(1, page_faults=6, phase="prefill", mlx_peak_bytes=90), 1.0) is None
    assert samples.take(_sample(2, page_faults=7, missed=3), 1.5) is None
    last = samples.take(_sample(4, page_faults=13, mlx_peak_bytes=10), 4.0)
    other = samples.take(_sample(0, model_id="n"), 4.0)
    assert first is not None
    assert last is not None
    assert other is not None
    assert (first["page_faults_per_s"], first["prefill_peak_bytes"], first["missed"]) == (None, 70, 0)
    assert (last["page_faults_per_s"], last["prefill_peak_bytes"], last["missed"]) == (2.0, 90, 5)
    assert last["layers"] == [{"layer": 0, "kv_bytes": 1}]
    assert (other["page_faults_per_s"], other["prefill_peak_bytes"]) == (None, None)


def test_a_model_that_does_not_get_on_is_stuck(tiny_model: Path) -> None:
    served = Served(models=[tiny_model], stuck_after_s=0.2)
    served.send({"id": 0, "method": "health"})
    assert served.answer(0)["result"]["status"] == "ok"
    (model,) = served.server.session.loaded.values()
    hold = threading.Event()
    # Its inference thread is busy with one thing, and a request waits for it.
    upstream.requests_of(model.engine).engine._mlx_executor.submit(hold.wait, PATIENCE_S)
    served.send(generate("r", 5))
    seen: set[str] = set()
    number = 0
    while "stuck" not in seen:
        number += 1
        served.send({"id": number, "method": "health"})
        seen.add(served.answer(number)["result"]["status"])
        assert seen <= {"ok", "busy", "stuck"}
    hold.set()
    assert served.answer("r")["result"]["completion_tokens"] == 5
    assert served.ended() == 0
