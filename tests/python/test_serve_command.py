"""`hwledger-omlx serve`: where it listens, who gets in, and how it ends."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import hwledger_omlx as hw
from hwledger_omlx.serve.settings import ServerSettings

COMMAND = (sys.executable, "-m", "hwledger_omlx.cli", "serve")
NO_MODEL = hw.EngineConfig(model=None, cache=None)


@contextlib.contextmanager
def serving(*arguments: object, home: Path) -> Iterator[tuple["subprocess.Popen[str]", str, str]]:
    """The process, where it serves, and what."""
    environment = {**os.environ, "HWLEDGER_OMLX_HOME": str(home)}
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments), "--port", "0"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            url, _, models = line.strip().partition(" serves ")
            yield process, url.replace("0.0.0.0", "127.0.0.1"), models  # noqa: S104
        finally:
            process.kill()


def end(process: "subprocess.Popen[str]", number: signal.Signals) -> tuple[int, str, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_answers_and_the_store_opens(
    tiny_model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    kv = tmp_path / "kv"
    with serving(tiny_model, "--paged-ssd-cache-dir", kv, home=tmp_path / "home") as (process, url, models):
        assert models == "tiny"
        asked = {"model": "tiny", "prompt": "hello " * 40, "max_tokens": 40, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(number)
            rest = list(lines)
        assert "data: [DONE]" in rest
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "", "")
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"kv", "home"}
    opened = hw.PagedCache().open(kv)
    stored = json.loads(opened.stats())
    opened.close()
    assert stored["tokens"] > 200


@pytest.mark.parametrize(("patience_s", "code"), [(1, 0), (3600, 128 + signal.SIGTERM)])
def test_an_answer_is_cut_off_after_a_while_or_at_a_second_signal(
    tiny_model: Path, tmp_path: Path, patience_s: int, code: int
) -> None:
    kv = tmp_path / "kv"
    options = ("--cache-dir", kv, "--shutdown-seconds", patience_s)
    with serving(tiny_model, *options, home=tmp_path / "home") as (process, url, _):
        asked = {"model": "tiny", "prompt": "on and on", "max_tokens": 3500, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            if code:
                with contextlib.suppress(httpx.TransportError):
                    while True:  # until it has heard the first one
                        httpx.get(f"{url}/health")
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
                # Where the end of the engine comes before that of the connection, the stream ends well, only too early.
                assert len([line for line in lines if line.startswith("data: {")]) < 3500
        assert process.wait(120) == code
    opened = hw.PagedCache().open(kv)
    assert json.loads(opened.stats())["state"] == "running"
    opened.close()


def test_a_key_is_asked_for_wherever_there_is_one(tiny_model: Path, tmp_path: Path) -> None:
    settings = tmp_path / "fork" / "settings.json"
    settings.parent.mkdir()
    settings.write_text(json.dumps({"auth": {"skip_api_key_verification": True}}))
    with serving(tiny_model, "--host", "0.0.0.0", "--api-key", "secret", "--no-cache", home=tmp_path) as (  # noqa: S104
        process,
        url,
        _,
    ):
        for path in ("/v1/models", "/metrics", "/admin/api/stats"):
            assert httpx.get(url + path).status_code == 401, path
            assert httpx.get(url + path, headers={"authorization": "Bearer wrong"}).status_code == 401, path
        for path in ("/v1/models", "/metrics"):
            assert httpx.get(url + path, headers={"authorization": "Bearer secret"}).status_code == 200, path
        page = httpx.get(f"{url}/admin/dashboard", headers={"accept": "text/html"})
        assert (page.status_code, page.headers["location"]) == (302, "/admin")
        with httpx.Client(base_url=url) as browser:
            assert browser.post("/admin/api/login", json={"api_key": "wrong"}).status_code == 401
            assert browser.post("/admin/api/login", json={"api_key": "secret"}).status_code == 200
            assert browser.get("/admin/dashboard").status_code == 200
            # What the page lets its user do must not let everybody in.
            asked = {"skip_api_key_verification": True}
            assert browser.post("/admin/api/global-settings", json=asked).status_code == 200
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/health").json()["cache"]["state"] == "off"
        code, out, err = end(process, signal.SIGTERM)
    assert (code, out) == (0, "")
    assert "→ 401" in err
    # A flag ends with its process.
    assert json.loads(settings.read_text())["auth"].get("api_key") is None
    assert settings.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "it takes an API key: give --api-key"),  # noqa: S104
        (("/no/such/model",), "no model at /no/such/model"),
        (("--hot-cache-max-size", "much"), "--hot-cache-max-size: cache.hot_bytes: must be a number of bytes"),
        (("--max-process-memory", "80%"), "--max-process-memory is not taken: omlx only guesses a tier from it; give"),
        (("--config", "/no/such/file.toml"), "the configuration /no/such/file.toml cannot be read: No such file"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    ended = subprocess.run(
        [*COMMAND, *arguments, "--port", "0"],
        env={**os.environ, "HWLEDGER_OMLX_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("hwledger-omlx: ")
    assert said in line


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("", False),
                        ("0.0.0.0", False), ("::", False), ("192.0.2.1", False)]  # noqa: S104
)  # fmt: skip
def test_only_loopback_goes_without_a_key(host: str, local: bool) -> None:
    settings = ServerSettings(engine=NO_MODEL, host=host)
    assert settings.is_local is local
    settings.check_key("key")
    if local:
        settings.check_key(None)
    else:
        with pytest.raises(hw.RequestError, match="takes an API key"):
            settings.check_key("")


def test_a_port_that_is_taken_is_said_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = ServerSettings(engine=NO_MODEL, port=taken.getsockname()[1])
        with pytest.raises(hw.EngineError, match="Address already in use; choose another --port"):
            settings.listen()


def test_what_is_sent_is_sent_at_once() -> None:
    with (
        ServerSettings(engine=NO_MODEL, port=0).listen() as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.proto == socket.IPPROTO_TCP  # what asyncio asks before it sets TCP_NODELAY


def test_settings_that_cannot_be() -> None:
    with pytest.raises(hw.EngineError, match="named in models="):
        ServerSettings(engine=hw.EngineConfig(model="x"))
    with pytest.raises(hw.EngineError, match="port must be from 0 to 65535"):
        ServerSettings(engine=NO_MODEL, port=65536)
    with pytest.raises(hw.EngineError, match="stuck_after_s must be a number of seconds above 0"):
        ServerSettings(engine=NO_MODEL, stuck_after_s=0)
    with pytest.raises(hw.ModelError, match="no folder of models at /no/such/folder"):
        ServerSettings(engine=NO_MODEL, model_dirs=[Path("/no/such/folder")])
    with pytest.raises(hw.EngineError, match=r"cannot listen on 'nowhere\.invalid'"):
        ServerSettings(engine=NO_MODEL, host="nowhere.invalid").listen()
