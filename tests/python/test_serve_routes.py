"""Routes of the server that no client's package reaches, and its admin page, in a browser too where there is one."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving import KEY, MODELS, Served, until

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LONG = "What is written of the lighthouse? " * 60


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as opened:
        yield opened


@pytest.fixture
def admin(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=120) as browser:
        browser.post("/admin/api/login", json={"api_key": KEY}).raise_for_status()
        yield browser


def ask(client: httpx.Client, text: str) -> dict[str, Any]:
    asked = {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 4, "temperature": 0}
    said: dict[str, Any] = client.post("/v1/chat/completions", json=asked).raise_for_status().json()
    return said


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/rerank", {"model": "notes", "query": "q", "documents": ["a"]}, 400, "not a reranker model"),
        ("/v1/rerank", {"model": "nope", "query": "q", "documents": ["a"]}, 404, "Model 'nope' not found"),
        ("/v1/audio/speech", {"model": "notes", "input": "x"}, 400, "not a text-to-speech model"),
        ("/v1/images/generations", {"model": "notes", "prompt": "x"}, 503, "disabled"),
        ("/v1/models/nope/unload", {}, 404, "nope"),
        ("/v1/chat/completions", {"model": "notes"}, 422, "messages"),
        ("/v1/messages/count_tokens", {"model": "notes"}, 422, "messages"),
    ],
)
def test_an_error_says_what_was_wrong(
    client: httpx.Client, path: str, body: dict[str, Any], status: int, said: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[]", b"7", b"[" * 100_000, b'{"model": "notes"' * 50])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"])
def test_a_body_that_is_none_is_refused_and_the_connection_goes_on(
    client: httpx.Client, path: str, body: bytes
) -> None:
    for _ in range(2):
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code in {400, 422}
        assert answer.json()["error"]["message"]


def test_what_is_served_beside_the_api(client: httpx.Client) -> None:
    assert client.get("/health").json()["status"] in {"ok", "busy"}
    assert "hwledger_requests_total" in client.get("/metrics").text
    assert client.get("/api/status").json()["models_discovered"] == len(MODELS)
    status = client.get("/v1/models/status").json()["models"]
    assert {model["id"] for model in status} == MODELS
    (notes,) = [model for model in status if model["id"] == "notes"]
    assert notes["max_context_window"] == 8192  # what the model was made for, and not the fork's 32768
    assert client.get("/nowhere").status_code == 404


def test_nobody_gets_in_without_a_key(served: Served) -> None:
    with httpx.Client(base_url=served.url) as stranger:
        for path in ("/v1/models", "/v1/models/notes", "/api/v1/models", "/metrics", "/admin/api/stats"):
            assert stranger.get(path).status_code == 401, path
        for path in ("/v1/messages", "/v1/rerank", "/admin/api/ssd-cache/clear", "/admin/api/hot-cache/clear"):
            assert stranger.post(path, json={"model": "notes"}).status_code in {401, 422}, path
        for path in ("/admin/dashboard", "/admin/chat", "/admin/api/stats"):
            answer = stranger.get(path, headers={"accept": "text/html"})
            assert (answer.status_code, answer.headers["location"]) == (302, "/admin"), path
        assert "api_key" in stranger.get("/admin").text


def test_the_admin_page_shows_and_clears_our_cache(served: Served, admin: httpx.Client, client: httpx.Client) -> None:
    first, again = ask(client, LONG), ask(client, LONG)
    cached = again["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached == first["usage"]["prompt_tokens"] - 1
    for page in ("/admin/dashboard", "/admin/chat"):
        assert "<html" in admin.get(page).raise_for_status().text

    def panel(model: str = "") -> dict[str, Any]:
        said: dict[str, Any] = admin.get("/admin/api/stats", params={"model": model}).raise_for_status().json()
        assert said["avg_prefill_tps"] > 0
        assert said["avg_generation_tps"] > 0
        return dict(said["runtime_cache"])

    shown = panel()
    assert shown["ssd_cache_dir"] == str(served.folder / "kv")
    assert 0 < shown["total_size_bytes"] < shown["disk_max_bytes"]
    assert shown["hot_cache_max_bytes"] > 0
    (tiny,) = panel("tiny")["models"]
    assert tiny in [{**row, "num_files": tiny["num_files"], "hot_cache_entries": tiny["hot_cache_entries"],
                     "hot_cache_size_bytes": tiny["hot_cache_size_bytes"], "cache_rates": tiny["cache_rates"]}
                    for row in shown["models"]]  # fmt: skip
    assert tiny["indexed_blocks"] >= first["usage"]["prompt_tokens"] // 256
    assert tiny["cache_rates"]["cumulative"]["prefix_hits"] >= cached

    assert admin.post("/admin/api/hot-cache/clear").status_code == 400
    cleared = admin.post("/admin/api/ssd-cache/clear").raise_for_status().json()
    assert cleared["total_deleted"] >= tiny["indexed_blocks"]
    assert ask(client, LONG)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_admin_page_in_a_browser(served: Served, client: httpx.Client, tmp_path: Path) -> None:
    ask(client, LONG)
    until(lambda: served.metrics().get("hwledger_cache_saved_bytes_total", 0) > 0, "something is stored")
    page = f"{served.url}/admin/auto-login?key={KEY}&redirect=/admin/dashboard"
    assert CHROMIUM is not None
    ended = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=15000", "--dump-dom", page],
        env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    # What the page's scripts have filled in.
    assert f">{served.folder / 'kv'}</code>" in ended.stdout
    assert ">256 tks</td>" in ended.stdout
    assert ">tiny</td>" in ended.stdout
