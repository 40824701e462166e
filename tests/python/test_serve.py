"""The HTTP server as its clients see it: chat, streams, models on demand, metrics and health, over loopback."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import hwledger_omlx as hw
from hwledger_omlx.fork import probe_model
from hwledger_omlx.fork.series import Series
from hwledger_omlx.hooks.layer_memory import requests
from hwledger_omlx.hooks.layer_memory.requests import RequestRecord
from hwledger_omlx.serve.server import Server
from hwledger_omlx.serve.settings import ServerSettings

LONG = "What is written of the lighthouse? " * 20
STUCK_AFTER_S = 3.0


@dataclass
class Known:
    value: float | None


@dataclass
class Layer:
    layer: int
    kv_allocated_bytes: Known
    kv_used_bytes: Known


@dataclass
class Model:
    model_id: str
    layers: tuple[Layer, ...]


@dataclass
class Report:
    models: tuple[Model, ...]


REPORT = Report((Model("measured", (Layer(0, Known(4096), Known(1024)), Layer(1, Known(8192), Known(None)))),))


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    probe_model.write(folder / "models" / "second", seed=1)
    broken = probe_model.write(folder / "models" / "broken")
    (broken / "tokenizer.json").unlink()
    engine = hw.EngineConfig(model=None, cache={"daily_write_bytes": "1GiB"}, cache_dir=folder / "kv", kv="8")
    settings = ServerSettings(
        engine=engine, models=[tiny_model], model_dirs=[folder / "models"], port=0, stuck_after_s=STUCK_AFTER_S
    )
    with Server(settings) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as opened:
        yield opened


def chat(client: openai.OpenAI, text: str, model: str = "tiny", **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=messages, **{"max_tokens": 8, "temperature": 0, **more})


def scrape(server: Server) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = httpx.get(f"{server.url}/metrics").raise_for_status().text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def value(scraped: dict[Any, float], name: str, **labels: str) -> float:
    return scraped[name, tuple(sorted(labels.items()))]


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, f"not within a minute: {what}"
        time.sleep(0.02)


def record(**more: Any) -> RequestRecord:
    usual: dict[str, Any] = {
        "request_id": "1",
        "model_id": "by-hand",
        "kv_policy": "16",
        "prompt_tokens": 100,
        "cached_tokens": 60,
        "completion_tokens": 11,
        "finish_reason": "stop",
        "arrived_unix_s": 0.0,
        "queue_s": 0.0,
        "prefill_s": 0.3,
        "ttft_s": 0.4,
        "decode_s": 0.2,
        "total_s": 0.6,
        "batch_peak": 1,
        "kv_bytes": 0,
        "peak_bytes": 0,
        "weights_bytes": 0,
        "chunk_tokens": 512,
    }
    return RequestRecord(**{**usual, **more})


def test_a_resend_comes_from_the_cache_and_the_metrics_say_so(server: Server, client: openai.OpenAI) -> None:
    before = scrape(server)
    first, again = chat(client, LONG), chat(client, LONG)
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert cached == first.usage.prompt_tokens - 1
    after = scrape(server)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("hwledger_cache_lookups_total") == 2
    assert grown("hwledger_cache_hits_total") == 1
    assert grown("hwledger_cache_misses_total", reason="no_prefix") == 1
    restored = {tier: grown("hwledger_cache_restored_tokens_total", tier=tier) for tier in ("ram", "disk")}
    # What is computed anew, at the start of a prompt whose KV is quantized, is not restored twice.
    assert sum(restored.values()) == cached
    assert grown("hwledger_cache_saved_bytes_total") > 0
    used = value(after, "hwledger_cache_write_budget_used_bytes")
    assert used + value(after, "hwledger_cache_write_budget_left_bytes") == 1 << 30
    assert value(after, "hwledger_mlx_peak_memory_bytes") >= value(after, "hwledger_mlx_active_memory_bytes") > 0
    assert value(after, "hwledger_process_resident_memory_bytes") > 1 << 20


def test_a_stream_says_what_the_answer_says(client: openai.OpenAI) -> None:
    whole = chat(client, "hello").choices[0].message.content
    streamed = [chunk.choices[0].delta.content or "" for chunk in chat(client, "hello", stream=True) if chunk.choices]
    assert len(streamed) > 2
    assert "".join(streamed) == whole


def test_a_client_that_leaves_ends_its_request(server: Server, client: openai.OpenAI) -> None:
    with chat(client, "hello", stream=True, max_tokens=3500) as stream:
        next(iter(stream))
        assert value(scrape(server), "hwledger_requests_running", model="tiny") == 1
    until(lambda: not value(scrape(server), "hwledger_requests_running", model="tiny"), "the request has ended")
    assert chat(client, "hello").usage.completion_tokens == 8


def test_errors_are_those_of_the_api(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        chat(client, "hello", model="no-such-model")
    with pytest.raises(openai.BadRequestError, match=r"broken \(qwen3\) could not be loaded"):
        chat(client, "hello", model="broken")


def test_a_model_on_demand_has_what_the_others_have(server: Server, client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"tiny", "second", "broken"} == set(server.model_ids)
    first, again = chat(client, LONG, model="second"), chat(client, LONG, model="second")
    assert again.usage.prompt_tokens_details.cached_tokens == first.usage.prompt_tokens - 1
    policies = {each["id"]: each["kv_policy"] for each in httpx.get(f"{server.url}/health").json()["models"]}
    assert policies == {"tiny": "8", "second": "8"}
    assert server.session.models.keys() == {"tiny", "second"}
    httpx.post(f"{server.url}/v1/models/second/unload", timeout=60).raise_for_status()
    assert server.session.models.keys() == {"tiny"}
    assert chat(client, LONG, model="second").choices[0].message.content == first.choices[0].message.content


def test_every_metric_has_a_good_name(server: Server) -> None:
    requests.publish(record(model_id="named"))
    scraped = httpx.get(f"{server.url}/metrics")
    assert scraped.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(parse_text(scraped.text))
    assert len({family.name for family in families}) == len(families) > 25
    # What `promtool check metrics` and the practices ask for.
    for family in families:
        assert family.name.startswith("hwledger_"), family.name
        assert family.documentation
        assert family.type in {"counter", "gauge", "histogram"}, family.name
        words = family.name.split("_")
        assert not {"ms", "milliseconds", "kb", "mb", "kilobytes", "percent", family.type} & set(words), family.name
        assert words[-1] != "total" or family.type == "counter"
        if "seconds" in words or "bytes" in words:
            assert words[-1] in {"seconds", "bytes"}, f"{family.name}: its unit comes last"
        for sample in family.samples:
            assert family.type != "counter" or sample.name.endswith("_total")
            assert not sample.name.endswith("_created")
            assert all(label.replace("_", "").isalnum() and label.islower() for label in sample.labels if label != "le")
    strict = httpx.get(f"{server.url}/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert {family.name for family in parse_openmetrics(strict.text)} >= {"hwledger_requests", "hwledger_kv_bytes"}


def test_requests_are_counted_as_they_end(server: Server) -> None:
    requests.publish(record())
    requests.publish(record(finish_reason="cancelled", completion_tokens=1, decode_s=0.0))
    requests.publish(record(finish_reason="error", completion_tokens=0, ttft_s=0.0, decode_s=0.0))
    scraped = scrape(server)

    def of(name: str, **labels: str) -> float:
        return value(scraped, name, model="by-hand", **labels)

    assert [of("hwledger_requests_total", outcome=each) for each in ("stop", "cancelled", "error")] == [1, 1, 1]
    assert of("hwledger_prompt_tokens_total") == 300
    assert of("hwledger_prompt_cached_tokens_total") == 180
    assert of("hwledger_completion_tokens_total") == 12
    # Without a token there was no first one, and without a second one no time between two.
    assert of("hwledger_time_to_first_token_seconds_count") == 2
    assert of("hwledger_time_to_first_token_seconds_sum") == pytest.approx(0.8)
    assert of("hwledger_decode_time_per_token_seconds_count") == 1
    assert of("hwledger_decode_time_per_token_seconds_bucket", le="0.01") == 0
    assert of("hwledger_decode_time_per_token_seconds_bucket", le="0.025") == 1


@pytest.mark.skipif(
    "layer-memory" not in Series.shipped().features,
    reason="patch 002-layer-memory, which tells of requests, is not here",
)
def test_requests_over_http_are_counted(server: Server, client: openai.OpenAI) -> None:
    names = ("prompt_tokens", "prompt_cached_tokens", "completion_tokens")

    def counted() -> list[float]:
        scraped = scrape(server)
        return [scraped.get((f"hwledger_{name}_total", (("model", "tiny"),)), 0.0) for name in names]

    before = counted()
    answers = [chat(client, LONG + "again"), chat(client, LONG + "again")]
    asked = sum(answer.usage.prompt_tokens for answer in answers)
    cached = sum(answer.usage.prompt_tokens_details.cached_tokens for answer in answers)
    until(lambda: counted()[2] >= before[2] + 16, "both requests are counted")
    assert [after - then for after, then in zip(counted(), before, strict=True)] == [asked, cached, 16]


def test_what_is_not_known_has_no_sample(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [name for name, _ in scrape(server) if name.startswith("hwledger_ledger")], "no row was lost"
    stats = server.session.ledger.stats()
    monkeypatch.setattr(server.session, "memory", lambda: REPORT)
    monkeypatch.setattr(server.session.ledger, "stats", lambda: replace(stats, dropped_rows={"queue_full": 2}))
    scraped = scrape(server)
    kv = {labels: found for (name, labels), found in scraped.items() if name == "hwledger_kv_bytes"}
    assert {(dict(labels)["layer"], dict(labels)["part"]): found for labels, found in kv.items()} == {
        ("0", "allocated"): 4096,
        ("0", "used"): 1024,
        ("1", "allocated"): 8192,
    }
    assert value(scraped, "hwledger_ledger_dropped_rows_total", reason="queue_full") == 2


def test_health_tells_what_runs_and_keeps_the_fields_of_the_fork(server: Server) -> None:
    answer = httpx.get(f"{server.url}/health")
    said = answer.json()
    assert (answer.status_code, said["status"], said["stuck"]) == (200, "ok", [])
    assert said["default_model"] == "tiny"
    assert said["engine_pool"]["model_count"] == 3
    assert "mcp" in said
    assert said["versions"].keys() == {"hwledger-omlx", "fork", "mlx", "mlx-lm", "python"}
    assert said["versions"]["hwledger-omlx"] == hw.__version__
    assert said["cache"] == {"kind": "paged", "state": "running", "why": None}
    assert said["uptime_s"] > 0
    memory = said["memory"]
    assert 0 < memory["resident_bytes"] < memory["system_total_bytes"]
    assert 0 < memory["system_available_bytes"] <= memory["system_total_bytes"]


def test_health_is_busy_then_stuck_while_the_inference_thread_hangs(server: Server, client: openai.OpenAI) -> None:
    core = server.session.loaded["tiny"].engine._engine.engine
    hangs, goes_on = threading.Event(), threading.Event()
    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            answer.set_result(chat(client, "hello"))
        except openai.OpenAIError as error:
            answer.set_exception(error)

    statuses: list[tuple[int, str]] = []

    def seen(status: str) -> bool:
        said = httpx.get(f"{server.url}/health")
        statuses.append((said.status_code, said.json()["status"]))
        return statuses[-1][1] == status

    core._mlx_executor.submit(lambda: (hangs.set(), goes_on.wait()))
    try:
        assert hangs.wait(60)
        threading.Thread(target=ask).start()
        until(lambda: seen("busy"), "busy")
        assert value(scrape(server), "hwledger_requests_waiting", model="tiny") == 1
        until(lambda: seen("stuck"), "stuck")
        (stuck,) = httpx.get(f"{server.url}/health").json()["stuck"]
    finally:
        goes_on.set()
    assert stuck["model_id"] == "tiny"
    assert stuck["requests"] == 1
    assert stuck["for_s"] >= STUCK_AFTER_S
    assert 0 < time.time() - stuck["since_unix_s"] < 60
    assert "busy with one thing" in stuck["why"]
    assert set(statuses) == {(200, "ok"), (200, "busy"), (503, "stuck")} - ({(200, "ok")} - set(statuses))
    assert answer.result(60).usage.completion_tokens == 8
    until(lambda: seen("ok"), "ok again")


def test_a_process_serves_once_at_a_time(server: Server) -> None:
    settings = ServerSettings(engine=hw.EngineConfig(model=None, cache=None), port=0)
    with pytest.raises(hw.EngineError, match="this process has a server already"):
        Server(settings).start()
    assert httpx.get(f"{server.url}/health").status_code == 200
