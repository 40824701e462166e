"""The metrics of one server, for Prometheus: counted as requests end, and read when they are asked for.

Each scrape reads counters and snapshots on the thread that asks; the engine's loop has no part in it. What is not known
has no sample: a zero means that it was counted and is none. Names and units: https://prometheus.io/docs/practices/naming/
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hwledger_omlx.cache.stats import CacheStats
from hwledger_omlx.engine import upstream
from hwledger_omlx.engine.activity import requests_of_any_kind
from hwledger_omlx.engine.session import Session
from hwledger_omlx.hooks.layer_memory import requests
from hwledger_omlx.hooks.layer_memory.requests import RequestRecord
from hwledger_omlx.memory.report import MemoryReport

TTFT_BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)
DECODE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True, slots=True)
class Totals:
    """Of the requests of a model that ended."""

    prompt_tokens: float
    cached_tokens: float
    """Of them, restored."""
    prefill_s: float
    completion_tokens: float
    decode_s: float


class Metrics:
    """Counts the requests of this process from now on, until `close`.

    Args:
        session: the engine.
        versions: what runs, by name.
        waiting: gives the requests that the engine was not given yet, by model.
    """

    def __init__(
        self, session: Session, versions: Mapping[str, str], waiting: Callable[[], Mapping[str, int]] = dict
    ) -> None:
        labels = ("model",)
        self._requests = Counter("hwledger_requests", "Requests that ended.", (*labels, "outcome"), registry=None)
        self._prompt_tokens = Counter("hwledger_prompt_tokens", "Of requests that ended.", labels, registry=None)
        self._cached_tokens = Counter(
            "hwledger_prompt_cached_tokens", "Prompt tokens whose KV was restored.", labels, registry=None
        )
        self._completion_tokens = Counter("hwledger_completion_tokens", "Generated.", labels, registry=None)
        self._prefill = Counter("hwledger_prefill_seconds", "In prefill, by request.", labels, registry=None)
        self._decoding = Counter("hwledger_decode_seconds", "From the first token to the last.", labels, registry=None)
        self._ttft = Histogram(
            "hwledger_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            labels,
            buckets=TTFT_BUCKETS_S,
            registry=None,
        )
        self._decode = Histogram(
            "hwledger_decode_time_per_token_seconds",
            "From the first token to the last, by token after the first: a request's mean.",
            labels,
            buckets=DECODE_BUCKETS_S,
            registry=None,
        )
        build = Gauge("hwledger_build_info", "Versions, as labels.", [_label(name) for name in versions], registry=None)
        build.labels(*versions.values()).set(1)
        self._sums = (
            self._prompt_tokens,
            self._cached_tokens,
            self._prefill,
            self._completion_tokens,
            self._decoding,
        )
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Counted(self._requests, *self._sums, self._ttft, self._decode, build))
        self._registry.register(_Now(session, waiting))
        self._unsubscribe = requests.subscribe(self._count)

    def close(self) -> None:
        """Ends the counting."""
        self._unsubscribe()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics, and the media type that they are written in.

        Args:
            accept: the header `Accept` of who asks.
        """
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    def totals(self, model_ids: Iterable[str]) -> dict[str, Totals]:
        """By model, what its requests took that have ended."""
        sums = [
            {
                sample.labels["model"]: sample.value
                for family in each.collect()
                for sample in family.samples
                if sample.name.endswith("_total")
            }
            for each in self._sums
        ]
        return {each: Totals(*(of.get(each, 0.0) for of in sums)) for each in model_ids}

    def _count(self, record: RequestRecord) -> None:
        # On the inference thread: additions only.
        model = record.model_id
        self._requests.labels(model, record.finish_reason).inc()
        self._prompt_tokens.labels(model).inc(record.prompt_tokens)
        self._cached_tokens.labels(model).inc(record.cached_tokens)
        self._completion_tokens.labels(model).inc(record.completion_tokens)
        self._prefill.labels(model).inc(record.prefill_s)
        self._decoding.labels(model).inc(record.decode_s)
        if record.completion_tokens > 0:
            self._ttft.labels(model).observe(record.ttft_s)
        if record.completion_tokens > 1:
            self._decode.labels(model).observe(record.decode_s / (record.completion_tokens - 1))


class _Counted(Collector):
    """Metrics of the library, without the time at which each began: as text that is a metric of its own, ill-named."""

    def __init__(self, *metrics: Collector) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for each in self._metrics:
            for family in each.collect():
                family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
                yield family


class _Now(Collector):
    """What is read anew at each scrape."""

    def __init__(self, session: Session, waiting: Callable[[], Mapping[str, int]]) -> None:
        self._session = session
        self._waiting = waiting
        self._process = psutil.Process()

    def collect(self) -> Iterator[Metric]:
        yield from self._queue()
        yield _layers(self._session.memory())
        yield from _mlx()
        yield _gauge(
            "hwledger_process_resident_memory_bytes",
            "Memory of the process that is in RAM.",
            self._process.memory_info().rss,
        )
        if self._session.cache.kind == "paged":
            config = self._session.config.paged_cache
            yield from _cache(self._session.cache.stats(), None if config is None else config.daily_write_bytes)
        dropped = self._session.ledger.stats().dropped_rows
        yield _counter("hwledger_ledger_dropped_rows", "Rows that the request ledger lost.", dropped, "reason")

    def _queue(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("hwledger_requests_waiting", "Accepted and not begun.", labels=["model"])
        running = GaugeMetricFamily("hwledger_requests_running", "In prefill or decoding.", labels=["model"])
        outside = self._waiting()
        for model_id, model in self._session.loaded_of_any_kind.items():
            at = requests_of_any_kind(model.placed)
            if at is not None:
                waiting.add_metric([model_id], at.waiting + outside.get(model_id, 0))
                running.add_metric([model_id], at.running)
        yield waiting
        yield running


def _layers(report: MemoryReport) -> Metric:
    family = GaugeMetricFamily(
        "hwledger_kv_bytes",
        "Keys and values of all requests of a model; used is the part of the allocated that holds tokens.",
        labels=["model", "layer", "part"],
    )
    for model in report.models:
        for layer in model.layers:
            for part, figure in (("allocated", layer.kv_allocated_bytes), ("used", layer.kv_used_bytes)):
                if figure.value is not None:
                    family.add_metric([model.model_id, str(layer.layer), part], figure.value)
    return family


def _mlx() -> Iterator[Metric]:
    for name, what in (
        ("active", "All arrays."),
        ("cache", "What MLX keeps for new arrays."),
        ("peak", "The most that all arrays were."),
    ):
        yield _gauge(f"hwledger_mlx_{name}_memory_bytes", what, upstream.mlx_memory_bytes(name))


def _cache(stats: CacheStats, daily_write_bytes: int | None) -> Iterator[Metric]:
    """Of our cache only; the fork's own has other figures."""
    lookups, restores, disk = stats.lookups, stats.restores, stats.disk
    yield _counter("hwledger_cache_lookups", "Searches for a stored prefix.", lookups.count)
    yield _counter("hwledger_cache_hits", "Searches that found something to restore.", lookups.hits)
    yield _counter("hwledger_cache_misses", "Searches that did not, by reason.", lookups.misses, "reason")
    yield _counter(
        "hwledger_cache_restored_bytes",
        "KV given back, by where it came from.",
        {"ram": restores.hot_bytes, "disk": restores.cold_bytes},
        "tier",
    )
    yield _counter(
        "hwledger_cache_restored_tokens",
        "Tokens given back, by where they came from.",
        {"ram": restores.hot_tokens, "disk": restores.cold_tokens},
        "tier",
    )
    yield _counter("hwledger_cache_page_faults", "Blocks that had to be read from disk.", restores.cold_blocks)
    yield _counter("hwledger_cache_saved_bytes", "KV taken in.", stats.saves.bytes)
    yield _counter("hwledger_cache_refused_saves", "Saves not taken in, by reason.", stats.saves.refused, "reason")
    yield _counter("hwledger_cache_written_bytes", "Written to disk.", disk.written_bytes)
    yield _counter("hwledger_cache_evicted_records", "Gone for others to have room.", disk.evicted_records)
    yield _gauge("hwledger_cache_blocks", "Stored, of 256 tokens each or the rest of a prompt.", disk.blocks)
    yield _gauge("hwledger_cache_disk_used_bytes", "Files of the store.", disk.used_bytes)
    yield _gauge("hwledger_cache_disk_quota_bytes", "Most that they may be.", disk.quota_bytes)
    yield _gauge("hwledger_cache_hot_bytes", "Hot tier: durable and still in RAM.", stats.memory.hot_bytes)
    yield _gauge("hwledger_cache_write_budget_used_bytes", "Written today (UTC).", disk.written_today_bytes)
    if daily_write_bytes is not None:
        left = max(0, daily_write_bytes - disk.written_today_bytes)
        yield _gauge("hwledger_cache_write_budget_left_bytes", "What may still be written today (UTC).", left)
    state = GaugeMetricFamily("hwledger_cache_state", "1 for the state that the cache is in.", labels=["state"])
    for each in ("running", "full", "suspended", "closed"):
        state.add_metric([each], 1 if stats.state == each else 0)
    yield state


def _counter(name: str, what: str, value: float | Mapping[str, int], label: str | None = None) -> Metric:
    family = CounterMetricFamily(name, what, labels=[label] if label else [])
    for key, count in value.items() if isinstance(value, Mapping) else [(None, value)]:
        family.add_metric([] if key is None else [key], count)
    return family


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=value)


def _label(name: str) -> str:
    return name.replace("-", "_")
