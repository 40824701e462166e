"""The life of `hwledger-omlx rpc` as a process: its file, signals, descriptors, and clients that go away."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jsonrpcclient
import pytest

import hwledger_omlx as hw
from hwledger_omlx import signals
from programs import hanging_program
from rpc_client import COMMAND, PATIENCE_S, Client


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
        asked = {"prompt": "on and on", "max_tokens": 60, "temperature": 0, "request_id": "s"}
        client.send(jsonrpcclient.request("generate", asked, id="s"))
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


@pytest.mark.skipif(COMMAND[0] != sys.executable, reason="Rust opens /dev/null in place of what is closed")
@pytest.mark.parametrize("closed", [0, 1])
def test_a_closed_descriptor_is_one_line_and_exit_code_2(tmp_path: Path, closed: int) -> None:
    shut = "<&-" if closed == 0 else ">&-"
    done = subprocess.run(
        ["sh", "-c", f'"$@" {shut}', "sh", *COMMAND, "--no-cache"],
        env={**os.environ, "HWLEDGER_OMLX_HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("hwledger-omlx: standard input or output is closed")


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
        assert os.read(reading, 100) == b"hangs\n"
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
