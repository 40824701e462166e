"""The configuration loaded anew while the shipped model streams: what changes, what stays, that no stream notices."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import hwledger_omlx as hw
import tiny_kinds
from hwledger_omlx.config.load import load
from hwledger_omlx.config.reload import Changes, LiveConfig
from hwledger_omlx.fork import probe_encoder, probe_model
from hwledger_omlx.fork.home import fork_home
from hwledger_omlx.models import NOTES
from hwledger_omlx.serve.server import Server

KEY = "the key"
BASE = f"""
[server]
port = 0
api_key = "{KEY}"
models = ["{NOTES}"]
[cache]
dir = "kv"
quota_bytes = "64MiB"
hot_bytes = "8MiB"
[sampling]
max_tokens = 5
"""


@dataclass
class Serving:
    file: Path
    server: Server
    live: LiveConfig
    client: httpx.Client

    def say(self, text: str) -> None:
        self.file.write_text(text, encoding="utf-8")

    def reload(self, text: str) -> Changes:
        self.say(text)
        return self.live.reload()

    def refused(self, text: str, why: str) -> None:
        """A configuration that cannot be leaves everything as it was."""
        before, models = self.live.config, self.model_ids
        self.say(text)
        with pytest.raises(hw.Error, match=why):
            self.live.reload()
        assert (self.live.config, self.model_ids) == (before, models)
        assert self.answer() == 5

    def answer(self, **asked: Any) -> int:
        """Tokens of an answer that does not say how many."""
        body = {"model": "notes", "prompt": "Once upon a time", **asked}
        said = self.client.post("/v1/completions", json=body).raise_for_status().json()
        return int(said["usage"]["completion_tokens"])

    @property
    def model_ids(self) -> set[str]:
        return {each["id"] for each in self.client.get("/v1/models").raise_for_status().json()["data"]}

    def policies(self) -> dict[str, str]:
        models = self.client.get("/health").json()["models"]
        return {each["id"]: each["kv_policy"] for each in models}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("reload")
    probe_model.write(folder / "more" / "second", seed=1)
    probe_model.write(folder / "third", seed=2)
    probe_encoder.write(folder / "encoder", "bert")
    file = folder / "hwledger.toml"
    file.write_text(BASE, encoding="utf-8")
    config = load(file, {})
    server = Server(config.server(), reload=lambda: live.reload_as_json())
    live = LiveConfig(config, server.session, lambda: load(file, {}), server)
    with server, httpx.Client(base_url=server.url, headers={"x-api-key": KEY}, timeout=120) as client:
        yield Serving(file, server, live, client)


@pytest.fixture(autouse=True)
def as_it_was(serving: Serving) -> Iterator[None]:
    yield
    serving.reload(BASE)
    until(lambda: serving.server.session.models.keys() == {"notes"}, "other models have left")


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, f"not within a minute: {what}"
        time.sleep(0.02)


class Stream(threading.Thread):
    """An answer of so many tokens, and what was seen of it."""

    def __init__(self, serving: Serving, tokens: int) -> None:
        super().__init__()
        self.seen = 0
        self.finished = ""
        self.text = ""
        self.last = math.inf
        """It leaves after so many."""
        self._client, self._tokens = serving.client, tokens

    def run(self) -> None:
        # With this seed the model goes on and on.
        asked = {"model": "notes", "prompt": "Long ago", "max_tokens": self._tokens, "stream": True}
        asked |= {"temperature": 1, "top_p": 0.95, "seed": 1}
        with self._client.stream("POST", "/v1/completions", json=asked) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    self.seen += 1
                    choice = json.loads(line[6:])["choices"][0]
                    self.text += choice["text"]
                    self.finished = choice["finish_reason"] or self.finished
                    if self.seen >= self.last and not self.finished:
                        return


def test_everything_that_may_change_changes_under_a_running_stream(serving: Serving) -> None:
    session = serving.server.session
    stream = Stream(serving, 3000)
    stream.start()
    until(lambda: stream.seen > 3, "the stream has begun")
    # Another one of the list, and a folder, of which nobody has asked for anything yet.
    changes = serving.reload(
        BASE.replace('"64MiB"', '"32MiB"')
        .replace("8MiB", "4MiB")
        .replace("max_tokens = 5", "max_tokens = 7")
        .replace(f'models = ["{NOTES}"]', f'models = ["{NOTES}", "./third"]\nmodel_dirs = ["more"]')
        + '[engine]\nkv = "8"\n[log]\nlevel = "error"\n[models.third]\nkv = "k8v4"\nmax_tokens = 3\nis_default = true\n'
    )
    stream.last = stream.seen + 20
    assert changes.loaded == ("third",)
    assert serving.model_ids == {"notes", "second", "third"}
    assert serving.policies() == {"notes": "8", "third": "k8v4"}
    assert (serving.answer(), serving.answer(model="third")) == (7, 3)
    assert serving.client.get("/health").json()["default_model"] == "third"
    assert session.cache.stats().disk.quota_bytes == 32 << 20
    assert session.config.paged_cache == hw.PagedCache(quota_bytes="32MiB", hot_bytes="4MiB")
    assert logging.getLogger("hwledger_omlx").level == logging.ERROR
    assert {each.name for each in changes.applied} >= {"cache.quota_bytes", "cache.hot_bytes", "sampling.max_tokens"}
    stream.join(120)
    assert (stream.seen, stream.finished) == (stream.last, "")
    # At the policy at which it began, to the end.
    serving.reload(BASE)
    undisturbed = Stream(serving, stream.seen)
    undisturbed.run()
    assert stream.text == undisturbed.text[: len(stream.text)] != ""


PER_MODEL = """
[models.third]
max_concurrent_requests = 2
force_sampling = true
temperature = 0.0
min_p = 0.25
thinking_budget_enabled = true
thinking_budget_tokens = 33
specprefill_enabled = true
specprefill_draft_model = "a draft"
specprefill_keep_pct = 0.3
specprefill_threshold = 4096
mtp_enabled = true
"""


def test_what_is_said_of_a_model_reaches_its_engine(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    serving.reload(BASE.replace(f'models = ["{NOTES}"]', f'models = ["{NOTES}", "./third"]') + PER_MODEL)
    scheduler = serving.server.session.loaded["third"].engine._engine.engine.scheduler
    assert scheduler.config.max_num_seqs == 2
    assert serving.server.session.loaded["notes"].engine._engine.engine.scheduler.config.max_num_seqs == 8
    requests: list[Any] = []
    add = scheduler.add_request
    monkeypatch.setattr(scheduler, "add_request", lambda request: (requests.append(request), add(request))[1])
    body = {"model": "third", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2, "temperature": 1.5}
    serving.client.post("/v1/chat/completions", json=body).raise_for_status()
    sampling = requests[0].sampling_params
    assert (sampling.temperature, sampling.min_p, sampling.thinking_budget) == (0.0, 0.25, 33)
    # What counts when a model is loaded, as the fork's pool reads it then.
    said = serving.server.session.pool._settings_manager.get_settings("third")
    assert (said.specprefill_enabled, said.specprefill_draft_model) == (True, "a draft")
    assert (said.specprefill_keep_pct, said.specprefill_threshold, said.mtp_enabled) == (0.3, 4096, True)
    assert not serving.server.session.pool._settings_manager.get_settings("notes").specprefill_enabled


def test_forced_sampling_counts_whatever_a_request_says(serving: Serving) -> None:
    def texts() -> set[str]:
        asked = [{"model": "notes", "prompt": "Long ago", "temperature": 1.5, "seed": seed} for seed in range(4)]
        said = [serving.client.post("/v1/completions", json=each).raise_for_status().json() for each in asked]
        return {each["choices"][0]["text"] for each in said}

    assert len(texts()) > 1
    serving.reload(BASE + "temperature = 0.0\nforce_sampling = true\n")
    assert len(texts()) == 1


def test_a_model_that_is_listed_no_more_leaves_when_its_answers_are_out(serving: Serving) -> None:
    both = BASE.replace(f'models = ["{NOTES}"]', 'models = ["./third"]')
    stream = Stream(serving, 200)
    stream.start()
    until(lambda: stream.seen > 0, "the stream has begun")
    changes = serving.reload(both)
    assert (changes.loaded, changes.leaving) == (("third",), ("notes",))
    stream.join(120)
    assert stream.finished == "length"
    until(lambda: serving.model_ids == {"third"}, "the model has left")
    assert serving.server.session.models.keys() == {"third"}


def test_a_model_that_generates_no_text_comes_stays_and_leaves_as_others_do(serving: Serving) -> None:
    both = BASE.replace(f'models = ["{NOTES}"]', f'models = ["{NOTES}", "./encoder"]')
    assert serving.reload(both).loaded == ("encoder",)
    assert serving.reload(both).loaded == ()
    # A reload that fails undoes what it has done, and no more.
    serving.refused(both + "[models.nots]\ntop_k = 1", "no model 'nots' is served")
    embedded = serving.client.post("/v1/embeddings", json={"model": "encoder", "input": "a word"})
    assert embedded.status_code == 200
    assert serving.reload(BASE).leaving == ("encoder",)
    until(lambda: serving.model_ids == {"notes"}, "the model has left")


def test_what_needs_a_restart_is_named_and_stays(serving: Serving) -> None:
    changes = serving.reload(BASE.replace("port = 0", "port = 9000").replace('"kv"', '"elsewhere"'))
    restart = {each.name: (each.before, each.origin) for each in changes.needs_restart}
    assert restart == {
        "server.port": (0, "hwledger.toml:3"),
        "cache.dir": (str(serving.file.parent / "kv"), "hwledger.toml:7"),
    }
    assert changes.applied == ()
    assert "server.port needs a restart" in str(changes)
    # As long as it is not done, it is said.
    assert serving.live.reload().needs_restart == changes.needs_restart
    assert not (serving.file.parent / "elsewhere").exists()
    key = serving.reload(BASE.replace(KEY, "another"))
    assert [(each.name, each.before, each.after) for each in key.needs_restart] == [("server.api_key", "***", "***")]


def test_what_cannot_be_changes_nothing(serving: Serving) -> None:
    serving.refused(BASE + "prot = 1", r"hwledger\.toml:\d+: sampling\.prot: no such setting")
    serving.refused(
        BASE + "[models.nots]\ntop_k = 1", r"models\.nots\.top_k: no model 'nots' is served; did you mean not"
    )
    serving.refused(BASE + "[models.notes]\nmtp_enabled = true\ndflash_enabled = true", "cannot both be True")
    # The notes have four layers. What was loaded for it before is not there afterwards.
    other = BASE.replace(f'models = ["{NOTES}"]', f'models = ["{NOTES}", "./third"]')
    serving.refused(other + '[engine]\nkv = "4,0-9:16"', "layer 9")
    serving.refused(BASE.replace(f'models = ["{NOTES}"]', 'models = ["./nowhere"]'), "no model at")
    serving.file.unlink()
    with pytest.raises(hw.ConfigError, match="cannot be read"):
        serving.live.reload()
    assert serving.answer() == 5


def test_the_admin_page_keeps_its_settings_beside_ours(serving: Serving) -> None:
    def stored(file: str) -> Any:
        return json.loads((fork_home() / file).read_text(encoding="utf-8"))

    with httpx.Client(base_url=serving.server.url, timeout=60) as page:
        page.post("/admin/api/login", json={"api_key": KEY}).raise_for_status()
        asked = {"sampling_max_tokens": 9, "sampling_top_k": 3}
        page.post("/admin/api/global-settings", json=asked).raise_for_status()
        serving.reload(BASE + "[models.notes]\ntemperature = 0.5")
        page.put("/admin/api/models/notes/settings", json={"top_p": 0.5}).raise_for_status()
    assert stored("settings.json")["sampling"]["max_tokens"] == 9
    assert serving.answer() == 5  # ours is stronger
    notes = stored("model_settings.json")["models"]["notes"]
    assert (notes["top_p"], notes.get("temperature")) == (0.5, None)
    settings = serving.server.session.pool._settings_manager.get_settings("notes")
    assert (settings.top_p, settings.temperature) == (0.5, 0.5)
    serving.reload(BASE.replace("max_tokens = 5", ""))
    assert serving.answer() == 9  # and now the page's counts


def test_it_can_be_asked_for_over_http_by_who_has_the_key(serving: Serving) -> None:
    serving.say(BASE.replace("max_tokens = 5", "max_tokens = 6"))
    path = "/admin/api/config/reload"
    assert httpx.post(serving.server.url + path).status_code == 401
    told = serving.client.post(path)
    assert told.status_code == 200
    (applied,) = told.json()["applied"]
    assert {**applied, "origin": ""} == {"name": "sampling.max_tokens", "before": 5, "after": 6, "origin": ""}
    assert serving.answer() == 6
    serving.say("[servers]")
    refused = serving.client.post(path)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "hwledger.toml:1: servers: no such setting; did you mean server?"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_hangup_loads_it_anew_and_nothing_is_written_elsewhere(tmp_path: Path) -> None:
    user, here, temporary = tmp_path / "user", tmp_path / "here", tmp_path / "temporary"
    for folder in (user, here, temporary):
        folder.mkdir()
    tiny_kinds.transcription(here / "models" / "listener")
    abandoned = here / "own" / "home" / "tmp" / "999999999"
    abandoned.mkdir(parents=True)
    (abandoned / "upload.wav").touch()
    file = here / "hwledger.toml"
    text = f'[server]\nport = 0\nmodels = ["{NOTES}"]\nmodel_dirs = ["models"]\n[sampling]\nmax_tokens = 4\n'
    text += '[engine]\nhome = "own/home"\nledger = "own/rows.sqlite"\n'
    file.write_text(text + '[cache]\ndir = "own/kv"\n', encoding="utf-8")
    theirs = ("HWLEDGER_OMLX_HOME", "HWLEDGER_OMLX_LOG", "XDG_DATA_HOME", "XDG_CONFIG_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in theirs}
    untouched = [each.stat().st_mtime_ns for each in (user, temporary)]
    with subprocess.Popen(
        [sys.executable, "-m", "hwledger_omlx.cli", "serve"],
        cwd=here,
        env={**environment, "HOME": str(user), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            url = line.partition(" serves ")[0]

            def tokens() -> int:
                asked = {"model": "notes", "prompt": "Once"}
                said = httpx.post(f"{url}/v1/completions", json=asked, timeout=60).raise_for_status().json()
                return int(said["usage"]["completion_tokens"])

            assert tokens() == 4
            file.write_text(file.read_text(encoding="utf-8").replace("= 4", "= 6"), encoding="utf-8")
            process.send_signal(signal.SIGHUP)
            until(lambda: tokens() == 6, "the new default counts")
            sound = {"file": ("tone.wav", tiny_kinds.wav(), "audio/wav")}
            asked = {"model": "listener", "language": "en"}
            heard = httpx.post(f"{url}/v1/audio/transcriptions", files=sound, data=asked, timeout=120)
            heard.raise_for_status()
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "the configuration was loaded anew: sampling.max_tokens = 6" in err
    assert {each.name for each in here.iterdir()} == {"hwledger.toml", "models", "own"}
    assert {each.name for each in (here / "own").iterdir()} >= {"home", "kv", "rows.sqlite"}
    assert list((here / "own" / "home" / "tmp").iterdir()) == []
    # Not even for a moment.
    assert [each.stat().st_mtime_ns for each in (user, temporary)] == untouched
