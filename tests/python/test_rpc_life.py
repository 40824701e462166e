"""The life of `hwledger-omlx rpc` as a process: its file, signals, descriptors, and clients that go away."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonrpcclient
import pytest

import hwledger_omlx as hw
from hwledger_omlx import signals
from hwledger_omlx.fork import probe_model
from programs import hanging_program
from rpc_client import COMMAND, PATIENCE_S, Client

WILD = {"temperature": 50, "top_k": 0}
"""Of tokens as if drawn by lot."""


def test_its_file_is_in_force_and_read_again_and_a_signal_ends_it_after_the_answers(
    tiny_model: Path, tmp_path: Path
) -> None:
    probe_model.write(tmp_path / "second", seed=1)
    file = tmp_path / "hwledger.toml"
    listed = f'[server]\nmodels = ["{tiny_model}"]\nport = 1\n'
    text = '[cache]\ndir = "kv"\n[sampling]\nmax_tokens = 5\ntemperature = 0\n[models.second]\nmax_tokens = 3\n'
    file.write_text(listed + text + "mtp_enabled = false\n", encoding="utf-8")
    client = Client("--config", file, home=tmp_path / "home")

    def tokens(**asked: Any) -> int:
        return int(client.result("generate", prompt="on and on", **asked)["completion_tokens"])

    try:
        assert client.result("kv.policy") == {"policies": {"tiny": "16"}}
        assert (tokens(), tokens(max_tokens=2)) == (5, 2)
        drawn = {client.result("generate", prompt="a", stream=False, **WILD, seed=seed)["text"] for seed in (3, 4)}
        assert len(drawn) == 2
        listed = f'[server]\nmodels = ["{tiny_model}", "./second"]\nport = 2\nstuck_after_seconds = 9\n'
        more = '[engine]\nkv = "8"\n'
        text = text.replace("= 5", "= 7\nforce_sampling = true\nmax_context_window = 50")
        file.write_text(listed + more + text, encoding="utf-8")
        changes = client.result("config.reload")["changes"]
        told = {kind: {each["name"] for each in changes[kind]} for kind in ("applied", "needs_restart", "unused")}
        assert told == {
            "applied": {
                *("server.models", "server.stuck_after_seconds", "engine.kv"),
                *("sampling.max_tokens", "sampling.force_sampling"),
            },
            "needs_restart": set(),
            "unused": {"server.port", "sampling.max_context_window", "models.second.mtp_enabled"},
        }
        assert (changes["loaded"], changes["leaving"]) == (["second"], [])
        assert client.result("kv.policy") == {"policies": {"tiny": "8", "second": "8"}}
        assert (tokens(), tokens(model="second"), tokens(model="second", max_tokens=9)) == (7, 3, 9)
        forced = {client.result("generate", prompt="a", stream=False, **WILD, seed=seed)["text"] for seed in (3, 4)}
        assert len(forced) == 1
        # What the client has unloaded does not come back unasked; what is listed no more leaves.
        client.result("unload_model", model="tiny")
        file.write_text(listed.replace(', "./second"', "") + more + text, encoding="utf-8")
        changes = client.result("config.reload")["changes"]
        assert (changes["loaded"], changes["leaving"]) == ([], ["second"])
        while client.result("memory_report")["loaded_models"]:
            pass
        client.result("load_model", model=str(tiny_model))
        file.write_text("[servers]", encoding="utf-8")
        assert "did you mean server?" in client.call("config.reload").message
        asked = {"prompt": "on and on", "max_tokens": 60, "request_id": "s"}
        client.send(jsonrpcclient.request("generate", asked, id="s"))
        client.until(lambda said: said.get("method") == "token")
        client.process.send_signal(signal.SIGTERM)
        assert client.answer("s").result["completion_tokens"] == 60
        code, said = client.ended()
        assert code == 0
        (line,) = said.splitlines()
        assert line.endswith(
            "what counts for HTTP alone is not used: server.port (hwledger.toml:3), "
            "models.second.mtp_enabled (hwledger.toml:11)"
        ), line
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


@pytest.mark.skipif(COMMAND[0] != sys.executable, reason="Rust opens /dev/null in place of what is closed")
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
        ["sh", "-c", f'"$@" --no-cache {streams}', "sh", *COMMAND],
        env={**os.environ, "HWLEDGER_OMLX_HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert [line.startswith(f"hwledger-omlx: {said}") for line in done.stderr.splitlines()] == [True] * bool(said)


@pytest.mark.parametrize("closed", ["input", "output"])
def test_a_client_that_leaves_a_stuck_engine_leaves_no_orphan(tiny_model: Path, tmp_path: Path, closed: str) -> None:
    reading, writing = os.pipe()
    client = Client(
        *(tiny_model, "--cache-dir", tmp_path / "kv", "--shutdown-seconds", 1),
        home=tmp_path / "home",
        command=hanging_program("rpc"),
        stderr=writing,
        relayed=True,
        TO_CLOSE_S="1",
    )
    try:
        client.result("generate", prompt="hello " * 60, max_tokens=4, temperature=0)
        client.process.send_signal(signal.SIGUSR1)
        client.send(jsonrpcclient.request("generate", {"prompt": "on and on", "max_tokens": 3900}))
        assert os.read(reading, 100).startswith(b"hangs")
        if closed == "input":
            # And standard error, which nobody reads, is full, so that whatever is said there waits for ever.
            os.set_blocking(writing, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(writing, b"x")
            os.set_blocking(writing, True)
            client.input.close()
        else:
            client.hang_up()
        assert client.process.wait(PATIENCE_S) == signals.CUT_SHORT == 70
        os.close(writing)
        with os.fdopen(reading, "rb") as said:
            assert (b"it has not ended in 2 s" in said.read()) is (closed == "output")
    finally:
        client.kill()
    opened = hw.PagedCache().open(tmp_path / "kv")
    assert json.loads(opened.stats())["tokens"] > 60
    opened.close()
