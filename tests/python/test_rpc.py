"""JSON-RPC over the pipes of a real process, with a client out of a package."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonrpcclient
import pytest

import hwledger_omlx as hw
from hwledger_omlx.fork import probe_encoder, probe_model
from hwledger_omlx.rpc import document
from hwledger_omlx.rpc.methods import METHODS, NOTIFICATIONS

COMMAND = (sys.executable, "-m", "hwledger_omlx.cli", "rpc")
PATIENCE_S = 120


class Client:
    """Sends what `jsonrpcclient` makes, and sorts what comes: answers by id, notifications in order."""

    def __init__(self, *arguments: object, home: Path) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env={**os.environ, "HWLEDGER_OMLX_HOME": str(home), "PYTHONWARNINGS": "ignore"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.unsorted: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.answers: dict[Any, Any] = {}
        self.notifications: list[Any] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.unsorted.put(json.loads(line))
        self.unsorted.put(None)

    def send(self, *messages: object) -> None:
        self.send_bytes(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def send_bytes(self, sent: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(sent)
        self.process.stdin.flush()

    def take(self) -> Any:
        """The next message."""
        message = self.unsorted.get(timeout=PATIENCE_S)
        if isinstance(message, dict) and "method" in message:
            self.notifications.append(message)
        elif isinstance(message, dict):
            self.answers[message["id"]] = message
        return message

    def answer(self, request_id: Any) -> Any:
        while request_id not in self.answers:
            assert self.take() is not None, self.errors()
        return jsonrpcclient.parse(self.answers.pop(request_id))

    def call(self, method: str, params: Mapping[str, Any] | list[Any] | None = None) -> Any:
        request = jsonrpcclient.request(method, params)
        self.send(request)
        return self.answer(request["id"])

    def result(self, method: str, **params: Any) -> Any:
        answered = self.call(method, params)
        assert isinstance(answered, jsonrpcclient.Ok), answered
        return answered.result

    def until(self, reached: Callable[[Any], bool]) -> Any:
        while True:
            message = self.take()
            assert message is not None, self.errors()
            if reached(message):
                return message

    def text(self, request_id: str) -> str:
        tokens = [each["params"] for each in self.notifications if each["method"] == "token"]
        return "".join(each["text"] for each in tokens if each["request_id"] == request_id)

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def end(self) -> tuple[int, str]:
        """Closes its input and awaits it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.ended()

    def ended(self) -> tuple[int, str]:
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code, self.errors()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture(scope="module")
def shared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("rpc")
    client = Client(tiny_model, "--cache-dir", folder / "kv", home=folder / "home")
    yield client
    # Whatever the tests did to it, it ends well and has said nothing.
    try:
        assert client.end() == (0, "")
    finally:
        client.kill()


@pytest.fixture
def client(shared: Client) -> Client:
    shared.answers.clear()
    shared.notifications.clear()
    return shared


def test_version_names_what_there_is(client: Client) -> None:
    said = client.result("protocol.version")
    assert said["version"].split(".")[0] == "1"
    assert said["methods"] == list(METHODS)
    assert said["notifications"] == [each.name for each in NOTIFICATIONS]


def test_a_stream_and_the_same_text_whole(client: Client) -> None:
    asked = {"prompt": "hello there", "max_tokens": 24, "temperature": 0.9, "seed": 5}
    streamed = client.result("generate", **asked, model="tiny", stream=True, request_id="r1")
    assert {"request_id", "prompt_tokens", "completion_tokens", "stopped_reason"} <= set(streamed)
    assert (streamed["request_id"], streamed["completion_tokens"]) == ("r1", 24)
    assert streamed["stopped_reason"] == "length"
    assert streamed["prompt_tokens"] > 0
    assert "text" not in streamed
    whole = client.result("generate", **asked, stream=False)
    assert whole["text"] == client.text("r1") != ""
    assert not [each for each in client.notifications if each["params"]["request_id"] == whole["request_id"]]
    assert set(streamed) | set(whole) <= set(METHODS["generate"].result)


def test_messages_and_positional_parameters(client: Client) -> None:
    said = client.result("generate", messages=[{"role": "user", "content": "hi"}], max_tokens=3, temperature=0)
    assert said["completion_tokens"] <= 3
    assert client.call("generate", ["hi", None, None, 2]).result["completion_tokens"] <= 2


def test_requests_run_at_the_same_time_and_one_is_cancelled(client: Client) -> None:
    long = {"prompt": "on and on", "max_tokens": 3000, "temperature": 0}
    client.send(jsonrpcclient.request("generate", {**long, "request_id": "long"}, id="long"))
    client.until(lambda said: said.get("method") == "token")
    # Reading goes on while tokens are written, and a short request overtakes the long one.
    assert client.result("health")["status"] == "busy"
    assert client.result("generate", prompt="short", max_tokens=4)["stopped_reason"] == "length"
    assert client.result("cancel", request_id="nobody") == {"cancelled": False}
    assert client.result("cancel", request_id="long") == {"cancelled": True}
    result = client.answer("long").result
    assert result["stopped_reason"] == "cancelled"
    assert 0 < result["completion_tokens"] < 3000
    memory = client.result("memory_report")
    assert memory["loaded_models"] == ["tiny"]


def test_a_batch_with_a_stream_a_fault_and_a_notification(client: Client) -> None:
    client.send(
        [
            jsonrpcclient.request("generate", {"prompt": "a", "max_tokens": 5, "request_id": "b"}, id="g"),
            jsonrpcclient.notification("health"),
            jsonrpcclient.request("nothing", id="n"),
            7,
        ]
    )
    while not isinstance(answers := client.take(), list):
        assert answers is not None
    by_id = {each["id"]: each for each in answers}
    assert len(answers) == 3
    assert by_id["g"]["result"]["completion_tokens"] == 5
    assert by_id["n"]["error"]["code"] == -32601
    assert by_id[None]["error"]["code"] == -32600
    assert client.text("b") != ""


@pytest.mark.parametrize(
    ("method", "params", "code", "kind", "said"),
    [
        ("genrate", {}, -32601, "RequestError", "did you mean 'generate'?"),
        ("generate", {"promt": "x"}, -32602, "RequestError", "did you mean 'prompt'?"),
        ("generate", {}, -32602, "RequestError", "either prompt"),
        ("generate", {"prompt": "x", "max_tokens": "many"}, -32602, "RequestError", "max_tokens must be a whole"),
        ("generate", {"prompt": "x", "max_tokens": True}, -32602, "RequestError", "max_tokens must be a whole"),
        ("generate", {"prompt": "x", "temperature": -1}, -32602, "RequestError", "temperature must be at least 0"),
        ("generate", {"prompt": "x", "seed": -1}, -32602, "RequestError", "seed must be between"),
        ("generate", {"prompt": "x", "model": "other"}, -32000, "RequestError", "no model 'other' is loaded"),
        ("generate", {"prompt": "many words " * 20_000}, -32000, "RequestError", "shorten the prompt"),
        ("cancel", {}, -32602, "RequestError", "'request_id' is missing"),
        ("cancel", ["a", "b"], -32602, "RequestError", "1 parameters at most"),
        ("load_model", {"model": "/no/such/model"}, -32000, "ModelNotFoundError", "no model at /no/such/model"),
        ("load_model", {"model": "x", "max_kv_size": -1}, -32602, "RequestError", "max_kv_size must be at least 0"),
        ("unload_model", {"model": "other"}, -32000, "ModelError", "no model 'other' is loaded"),
        ("kv.policy", {"policy": "1000"}, -32000, "KvPolicyError", "1000"),
        ("bench.run", {"model": "other"}, -32000, "ModelError", "no model 'other' is loaded"),
        ("bench.run", {"prompt_tokens": 0}, -32602, "RequestError", "prompt_tokens must be at least 1"),
    ],
)  # fmt: skip
def test_errors_have_a_code_a_class_and_a_message(
    client: Client, method: str, params: Any, code: int, kind: str, said: str
) -> None:
    error = client.call(method, params)
    assert isinstance(error, jsonrpcclient.Error), error
    assert error.code == code
    assert error.data == {"class": kind, "message": error.message}
    assert said in error.message
    assert issubclass(getattr(hw, kind), hw.Error)


def test_garbage_is_answered_and_the_server_goes_on(client: Client) -> None:
    whole = json.dumps(jsonrpcclient.request("health", id="after")).encode()
    garbage = [
        b"\xff\xfe\xfa",
        b"{",
        b"null",
        b'"text"',
        b"[]",
        b"[1,",
        b"\x00" * 50,
        b'{"jsonrpc":"2.0","method":5,"id":9}',
    ]
    for line in garbage:
        client.send_bytes(line + b"\n")
    client.send_bytes(
        b'{"jsonrpc":"2.0","method":"generate","params":{"prompt":"' + b"x" * (17 * 2**20) + b'"},"id":1}\n'
    )
    client.send_bytes(b"\n  \r\n" + whole[:20])
    codes = [client.take()["error"]["code"] for _ in range(len(garbage) + 1)]
    assert sorted(codes) == sorted([-32700] * 4 + [-32600] * 4 + [-32700])
    client.send_bytes(whole[20:] + b"\r\n")  # the other half of a line
    assert client.answer("after").result["status"] == "ok"


def test_memory_comes_layer_by_layer_between_the_tokens(client: Client) -> None:
    assert client.result("memory.subscribe") == {"subscribed": True}
    client.result("generate", prompt="memory " * 60, max_tokens=40, temperature=0, request_id="m")
    told = [each["params"] for each in client.notifications if each["method"] == "memory"]
    assert client.result("memory.unsubscribe")["was_subscribed"]
    assert set().union(*told) == set(NOTIFICATIONS[1].params)
    in_prefill = [each for each in told if each["phase"] == "prefill"]
    assert in_prefill
    assert {each["request_id"] for each in in_prefill} <= {"m", None}  # None where it had ended when it was told
    assert all(each["prefill_peak_bytes"] >= each["mlx_peak_bytes"] > 0 for each in in_prefill)
    most = max(told, key=lambda each: each["kv_allocated_bytes"])
    assert len(most["layers"]) == 2
    assert sum(layer["kv_bytes"] for layer in most["layers"]) == most["kv_allocated_bytes"] + most["state_bytes"] > 0
    assert [each for each in told if each["page_faults_per_s"] is not None]
    assert [each["number"] for each in told] == sorted({each["number"] for each in told})
    client.notifications.clear()
    client.result("generate", prompt="quiet", max_tokens=20)
    assert {each["method"] for each in client.notifications} == {"token"}


def test_the_report_of_memory_is_true(client: Client) -> None:
    report = client.result("memory_report")
    assert {"total_unified_mb", "used_by_mlx_mb", "kv_cache_mb", "loaded_models"} <= set(report)
    assert set(report) == set(METHODS["memory_report"].result)
    (model,) = report["models"]
    assert report["total_unified_mb"] > report["used_by_mlx_mb"] > model["weights_mb"] > 0
    client.send(
        jsonrpcclient.request("generate", {"prompt": "x " * 300, "max_tokens": 2000, "request_id": "k"}, id="k")
    )
    for _ in range(40):
        client.until(lambda said: said.get("method") == "token")
    report = client.result("memory_report")
    assert client.result("cancel", request_id="k")["cancelled"]
    assert client.answer("k").result["stopped_reason"] == "cancelled"
    layers = report["models"][0]["layers"]
    assert report["kv_cache_mb"] * 2**20 == sum(layer["kv_bytes"] for layer in layers) > 300 * 64


def test_a_bench_is_the_same_each_time(client: Client) -> None:
    first, second = (client.result("bench.run", seed=3, prompt_tokens=40, max_tokens=24) for _ in range(2))
    other = client.result("bench.run", seed=4, prompt_tokens=40, max_tokens=24)
    assert set(first) == set(METHODS["bench.run"].result)
    assert first["token_digest"] == second["token_digest"] != other["token_digest"]
    assert (first["completion_tokens"], len(first["layers"])) == (24, 2)
    assert first["kv_bytes"] == second["kv_bytes"] == sum(layer["kv_bytes"] for layer in first["layers"]) > 0
    assert first["prefill_peak_bytes"] > 0
    assert second["page_faults"] == 0


def test_policy_and_cache(client: Client) -> None:
    assert client.result("kv.policy") == {"policies": {"tiny": "16"}}
    assert client.result("kv.policy", policy="8", model="tiny") == {"policies": {"tiny": "8"}}
    assert client.result("kv.policy", policy="16") == {"policies": {"tiny": "16"}}
    prompt = "cached " * 80
    client.result("generate", prompt=prompt, max_tokens=2)
    again = client.result("generate", prompt=prompt, max_tokens=2)
    assert again["cached_tokens"] > 0
    said = client.result("cache.stats")
    assert set(said) == set(METHODS["cache.stats"].result)
    assert (said["kind"], said["state"]) == ("paged", "running")
    assert said["stats"]["lookups"]["hits"] > 0


def test_models_come_and_go_by_the_name_that_they_were_loaded_by(client: Client, tiny_model: Path) -> None:
    assert client.result("unload_model", model=str(tiny_model)) == {"unloaded": True, "model": "tiny"}
    assert client.result("memory_report")["loaded_models"] == []
    said = client.result("load_model", model=str(tiny_model), max_kv_size=50)
    assert said == {"loaded": True, "model": "tiny", "context_length": 50}
    assert client.result("generate", prompt="a b", model=str(tiny_model), max_tokens=500)["stopped_reason"] == "length"
    refused = client.call("generate", {"prompt": "word " * 60})
    assert "takes 50" in refused.message
    client.result("unload_model", model="tiny")
    assert client.result("load_model", model=str(tiny_model))["context_length"] > 50


def test_models_that_generate_no_text_are_in_nobodys_way(client: Client, tiny_model: Path, tmp_path: Path) -> None:
    client.result("load_model", model=str(probe_encoder.write(tmp_path / "encoder", "bert")))
    client.result("load_model", model=str(probe_model.write(tmp_path / "second", seed=1)))
    assert client.result("memory_report")["loaded_models"] == ["tiny", "second", "encoder"]
    assert client.result("kv.policy", policy="16")["policies"] == {"tiny": "16", "second": "16"}
    client.result("unload_model", model="tiny")
    # The next one is the default of requests then.
    assert client.result("generate", prompt="a", max_tokens=2)["model"] == "second"
    client.result("unload_model", model="second")
    for method, params in (("generate", {"prompt": "a"}), ("bench.run", {})):
        assert "no model that generates text is loaded" in client.call(method, params).message
    client.result("unload_model", model="encoder")
    client.result("load_model", model=str(tiny_model))


def test_the_document_is_what_the_code_says() -> None:
    file = Path(__file__).parents[2] / "docs" / "rpc.md"
    assert file.read_text(encoding="utf-8") == document.document(), (
        "run python -m hwledger_omlx.rpc.document > docs/rpc.md"
    )
    for method in METHODS.values():
        asked, answered = method.example
        assert set(asked) <= set(method.params), method.name
        assert set(answered) <= set(method.result), method.name


def test_it_reads_its_file_again_and_a_signal_ends_it_after_the_answers(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "hwledger.toml"
    file.write_text('[cache]\ndir = "kv"\n', encoding="utf-8")
    client = Client(tiny_model, "--config", file, home=tmp_path / "home")
    try:
        assert client.result("kv.policy") == {"policies": {"tiny": "16"}}  # it has read the file
        more = '[engine]\nkv = "8"\n[server]\nport = 1\nstuck_after_seconds = 9\n[sampling]\ntop_k = 3\n'
        file.write_text(file.read_text(encoding="utf-8") + more, encoding="utf-8")
        changes = client.result("config.reload")["changes"]
        told = {kind: [each["name"] for each in changes[kind]] for kind in ("applied", "needs_restart", "unused")}
        assert told == {
            "applied": ["server.stuck_after_seconds", "engine.kv"],
            "needs_restart": [],
            "unused": ["server.port", "sampling.top_k"],
        }
        assert client.result("kv.policy") == {"policies": {"tiny": "8"}}
        file.write_text("[servers]", encoding="utf-8")
        assert "did you mean server?" in client.call("config.reload").message
        client.send(jsonrpcclient.request("generate", {"prompt": "hello", "max_tokens": 60, "request_id": "s"}, id="s"))
        client.until(lambda said: said.get("method") == "token")
        client.process.send_signal(signal.SIGTERM)
        assert client.answer("s").result["completion_tokens"] == 60
        assert client.ended() == (0, "")
    finally:
        client.kill()
    opened = hw.PagedCache().open(tmp_path / "kv")
    assert json.loads(opened.stats())["state"] == "running"
    opened.close()


def test_a_second_signal_ends_it_at_once(tiny_model: Path, tmp_path: Path) -> None:
    client = Client(tiny_model, "--no-cache", "--shutdown-seconds", "3600", home=tmp_path)
    try:
        asked = {"prompt": "on and on", "max_tokens": 3900, "temperature": 0}
        client.send(jsonrpcclient.request("generate", asked))
        client.until(lambda said: said.get("method") == "token")
        while client.process.poll() is None:
            client.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.process.wait(0.2)
        assert client.process.returncode == 128 + signal.SIGINT
    finally:
        client.kill()


def test_only_messages_are_on_standard_output(tiny_model: Path, tmp_path: Path) -> None:
    """Python that prints, a library that writes to the descriptor, and a process that inherits it."""
    program = (
        "import os, subprocess, sys\n"
        "from hwledger_omlx import EngineConfig\n"
        "from hwledger_omlx.rpc import RpcSettings, serve\n"
        "def reload():\n"
        "    print('printed')\n"
        "    os.write(1, b'written\\n')\n"
        "    subprocess.run(['sh', '-c', 'echo echoed; cat'])\n"
        "    return {'log_level': 'info'}\n"
        "code = serve(RpcSettings(engine=EngineConfig(model=None, cache=None), reload=reload))\n"
        "print('afterwards', flush=True)\n"
        "sys.exit(code)\n"
    )
    asked = json.dumps(jsonrpcclient.request("config.reload", id=1))
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=asked + "\n",
        env={**os.environ, "HWLEDGER_OMLX_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    message, after = done.stdout.splitlines()
    assert json.loads(message)["result"] == {"reloaded": True, "changes": {"log_level": "info"}}
    assert after == "afterwards"
    assert sorted(done.stderr.split()) == ["echoed", "printed", "written"]


@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        ("<&-", 0, ""),
        ("</dev/null", 0, ""),
        (">&-", 2, "standard output is closed or the null device"),
        (">/dev/null", 2, "standard output is closed or the null device"),
        ("<&- >&-", 2, "standard output is closed or the null device"),
    ],
)
def test_without_input_it_ends_and_without_output_it_refuses(
    tmp_path: Path, streams: str, code: int, said: str
) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m hwledger_omlx.cli rpc --no-cache {streams}', sys.executable],
        env={**os.environ, "HWLEDGER_OMLX_HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert [line.startswith(f"hwledger-omlx: {said}") for line in done.stderr.splitlines()] == [True] * bool(said)
