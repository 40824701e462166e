"""The life of `serve` as a process: what hangs is started again, what was cached is kept, and nothing is left behind.

The servers run the command's own code, in a process that a signal can make hang in a place of the test's choice.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import hwledger_omlx as hw
from hwledger_omlx.models import NOTES
from programs import hanging_program

PROMPT = "hello " * 60


class Process:
    """A server under test; `lines` are those of its standard output, and of its children's."""

    def __init__(self, home: Path, *arguments: object, hangs_in: str = "", **environment: str) -> None:
        self.process = subprocess.Popen(
            [*hanging_program("serve"), *map(str, arguments)],
            env={**os.environ, "HWLEDGER_OMLX_HOME": str(home), "HANGS_IN": hangs_in, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.lines = iter(self.process.stdout.readline, "")
        self.errors = ""
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as errors:
            self.errors = errors.read()

    def url(self) -> str:
        for line in self.lines:
            url, serves, _ = line.partition(" serves ")
            if serves:
                return url
        self._reader.join(60)
        pytest.fail(f"it does not serve: {self.errors}")

    def wait_for(self, mark: str) -> None:
        assert any(mark in line for line in self.lines), mark

    def end(self) -> int:
        """Its exit code; what it wrote to standard error is in `errors` then, of its children too."""
        code = self.process.wait(60)
        self._reader.join(60)
        return code


@contextlib.contextmanager
def running(home: Path, *arguments: object, hangs_in: str = "", **environment: str) -> Iterator[Process]:
    started = Process(home, *arguments, hangs_in=hangs_in, **environment)
    family = psutil.Process(started.process.pid)
    try:
        yield started
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in (*family.children(recursive=True), family):
                each.kill()
        started.end()
        assert started.process.stdout is not None
        started.process.stdout.close()


def complete(url: str, **more: Any) -> dict[str, Any]:
    asked = {"prompt": PROMPT, "max_tokens": 4, "temperature": 0, **more}
    answer: dict[str, Any] = httpx.post(f"{url}/v1/completions", json={"model": "tiny", **asked}, timeout=60).json()
    return answer


def tokens_in(folder: Path) -> int:
    opened = hw.PagedCache().open(folder)
    stored: int = json.loads(opened.stats())["tokens"]
    opened.close()
    return stored


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def test_a_stuck_engine_is_reported_and_started_again_with_its_cache(tiny_model: Path, tmp_path: Path) -> None:
    options = ("--cache-dir", tmp_path / "kv", "--port", free_port(), "--restart-stuck")
    patience = ("--stuck-after-seconds", 1, "--restart-after-seconds", 3)
    with running(tmp_path / "home", tiny_model, *options, *patience) as server:
        url = server.url()
        supervisor = psutil.Process(server.process.pid)
        (first,) = supervisor.children()
        assert complete(url)["usage"]["completion_tokens"] == 4
        first.send_signal(signal.SIGUSR1)
        with httpx.stream(
            "POST", f"{url}/v1/completions", json={"model": "tiny", "prompt": "a", "stream": True}
        ) as hung:
            server.wait_for("hangs")
            while (said := httpx.get(f"{url}/health").json())["status"] != "stuck":
                pass
            assert said["stuck"][0]["model_id"] == "tiny"
            assert server.url() == url
            with pytest.raises(httpx.TransportError):
                hung.read()
        (second,) = supervisor.children()
        assert not first.is_running()
        assert complete(url)["usage"]["prompt_tokens_details"]["cached_tokens"] > 60
        supervisor.send_signal(signal.SIGTERM)
        assert server.end() == 0
        assert not second.is_running()
    assert "stuck: tiny: the inference thread has been busy" in server.errors
    assert tokens_in(tmp_path / "kv") > 60


def test_a_server_ends_with_its_supervisor_and_twice_told_at_once(tiny_model: Path, tmp_path: Path) -> None:
    options = (tiny_model, "--no-cache", "--port", 0, "--restart-stuck", "--stuck-after-seconds", 1)
    with running(tmp_path / "home", *options) as server:
        server.url()
        (child,) = psutil.Process(server.process.pid).children()
        server.process.kill()
        assert server.end() == -signal.SIGKILL  # the pipes are the child's too, so it has ended as well
        child.wait(60)
    assert "the supervisor is gone" in server.errors
    with running(tmp_path / "home", *options, "--shutdown-seconds", 3600) as server:
        url = server.url()
        (child,) = psutil.Process(server.process.pid).children()
        asked = {"model": "tiny", "prompt": "on and on", "max_tokens": 3500, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=60) as stream:
            next(stream.iter_lines())
            server.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(httpx.TransportError):
                while True:  # until it has heard the first one
                    httpx.get(f"{url}/health")
            server.process.send_signal(signal.SIGINT)
            assert server.end() == 128 + signal.SIGINT
        assert not child.is_running()


def test_told_to_end_while_it_loads_it_does_at_once(tiny_model: Path, tmp_path: Path) -> None:
    with running(tmp_path / "home", tiny_model, "--cache-dir", tmp_path / "kv", "--port", 0, hangs_in="load") as server:
        server.wait_for("hangs")
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 128 + signal.SIGINT
    assert server.errors == ""
    assert tokens_in(tmp_path / "kv") == 0


@pytest.mark.parametrize("twice", [True, False])
def test_an_end_that_hangs_is_cut_short_and_the_cache_is_kept(tiny_model: Path, tmp_path: Path, twice: bool) -> None:
    options = (tiny_model, "--cache-dir", tmp_path / "kv", "--port", 0, "--shutdown-seconds", 1)
    with running(tmp_path / "home", *options, hangs_in="flush", TO_CLOSE_S="3600" if twice else "1") as server:
        complete(server.url())
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("hangs")
        if twice:
            server.process.send_signal(signal.SIGTERM)
        assert server.end() == 128 + signal.SIGTERM
    assert ("it has not ended in 2 s" in server.errors) is not twice
    if not twice:
        assert tokens_in(tmp_path / "kv") > 60


def test_told_to_end_in_a_long_prefill_it_cuts_that_off(tmp_path: Path) -> None:
    options = (NOTES, "--no-cache", "--port", 0, "--shutdown-seconds", 1)
    with running(tmp_path / "home", *options) as server:
        url = server.url()
        with pytest.raises(httpx.TransportError):  # noqa: PT012 - the stream breaks off where it is read
            asked = {"model": "notes", "prompt": "lantern harbour " * 1500, "max_tokens": 4, "stream": True}
            with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=60) as stream:
                assert stream.status_code == 200, stream.read()
                while not httpx.get(f"{url}/health").json()["models"][0]["requests_running"]:
                    pass
                server.process.send_signal(signal.SIGTERM)
                stream.read()
                raise httpx.ReadError("it was short enough to end well")
        assert server.end() == 0
