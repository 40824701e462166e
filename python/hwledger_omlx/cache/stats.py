"""The statistics of a KV cache, typed: counts since it was opened, and what it holds now."""

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from hwledger_omlx.cache.sizes import size_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How long something took, in buckets whose upper limits double."""

    count: int = 0
    total_seconds: float = 0.0
    max_seconds: float = 0.0
    buckets: tuple[tuple[float, int], ...] = ()
    """`(upper limit in seconds, count below it and not below the last one)`; the first holds what took under 1 µs."""

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """From the core's histogram in microseconds, where bucket i counts values from 2^(i-1) to below 2^i."""
        return cls(
            count=said["count"],
            total_seconds=said["sum"] / 1e6,
            max_seconds=said["max"] / 1e6,
            buckets=tuple((2**index / 1e6, count) for index, count in enumerate(said["buckets"])),
        )

    @property
    def mean_seconds(self) -> float:
        """Of none it is 0."""
        return self.total_seconds / self.count if self.count else 0.0

    def quantile_seconds(self, share: float) -> float:
        """What `share` of them stayed under, to its bucket's upper limit and never above the largest; 0 of none."""
        if not 0 <= share <= 1:
            raise ValueError(f"share must be from 0 to 1, not {share}")
        wanted = share * self.count
        below = 0
        for limit, count in self.buckets:
            below += count
            if count and below >= wanted:
                return min(limit, self.max_seconds)
        return self.max_seconds

    def __str__(self) -> str:
        if not self.count:
            return "-"
        middle, most = _time(self.quantile_seconds(0.5)), _time(self.quantile_seconds(0.99))
        return f"{middle} median, {most} p99, {_time(self.max_seconds)} max of {self.count:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookups:
    """What prompts found."""

    count: int = 0
    hits: int = 0
    """With something to restore."""
    full_hits: int = 0
    """With all they asked for."""
    misses: Mapping[str, int] = field(default_factory=dict)
    """By the reason: `no_prefix`, `evicted`, `identity_changed`, `no_snapshot`, `disabled`."""
    tokens_asked: int = 0
    tokens_matched: int = 0
    durations: Durations = Durations()

    @property
    def token_hit_share(self) -> float:
        """Tokens matched, of those asked for; 0 of none."""
        return self.tokens_matched / self.tokens_asked if self.tokens_asked else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Restores:
    """What was given back, from RAM (hot) and from disk (cold)."""

    hot_tokens: int = 0
    cold_tokens: int = 0
    hot_blocks: int = 0
    cold_blocks: int = 0
    hot_bytes: int = 0
    """As they are in the engine's arrays, also where they were kept encoded."""
    cold_bytes: int = 0
    page_faults_per_second: float = 0.0
    """Blocks read from disk per second, over the last minute."""
    page_fault_share: float = 0.0
    """Blocks read from disk, of all blocks restored."""
    durations: Durations = Durations()
    decode_durations: Durations = Durations()
    """Of one part of one block, on one thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saves:
    """What was taken in. Nothing accepted is dropped; what was not accepted is counted with its reason."""

    count: int = 0
    """With something new."""
    deferred: int = 0
    """Whose copy waited for room in the queue."""
    tokens: int = 0
    bytes: int = 0
    """As they were in the engine's arrays."""
    bytes_before_encoding: int = 0
    """Of the parts that are kept encoded, as they were in the engine's arrays."""
    bytes_after_encoding: int = 0
    """The same as they are kept, in RAM and on disk."""
    blocks: int = 0
    snapshots: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    """Not accepted, or not all of it, by the reason."""
    queue_bytes: int = 0
    """Copied and not yet durable, now."""
    queue_records: int = 0
    backlog_bytes: int = 0
    """Accepted and not yet copied, now."""
    stall_durations: Durations = Durations()
    """How long a save kept its caller."""
    durable_durations: Durations = Durations()
    """From acceptance until it was durable."""
    encode_durations: Durations = Durations()
    """Of one part of one block, on one thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What is on disk, and what was written for it."""

    used_bytes: int = 0
    quota_bytes: int = 0
    live_bytes: int = 0
    """What is stored, headers included; the rest of `used_bytes` is free to be reused."""
    segments: int = 0
    blocks: int = 0
    snapshots: int = 0
    tokens: int = 0
    written_bytes: int = 0
    """To all files."""
    written_today_bytes: int = 0
    """Charged to today's write budget (UTC)."""
    write_amplification: float = 0.0
    """Bytes written, by payload bytes made durable."""
    commits: int = 0
    committed_records: int = 0
    committed_bytes: int = 0
    compacted_bytes: int = 0
    """Live records that compaction wrote anew."""
    evicted_records: int = 0
    evicted_bytes: int = 0
    expired_records: int = 0
    quarantined_records: int = 0
    """Found bad and taken out."""
    read_errors: int = 0
    """Reads of records that the system failed; a record is taken out if it fails again."""
    lost_records: int = 0
    """Accepted, and then not to be written."""
    lost_bytes: int = 0
    lost_why: str | None = None
    """The reason of the last loss."""
    commit_durations: Durations = Durations()


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """RAM of the cache."""

    hot_bytes: int = 0
    """Durable and still held."""
    hot_records: int = 0
    mapped_bytes: int = 0
    """For payloads, in use or ready for it."""
    index_bytes: int = 0
    """Token ids apart."""
    token_bytes: int = 0
    """Token ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """A cache's account of itself. `print` it, or show it in a notebook."""

    state: str
    """`running`, `full`, `suspended` or `closed`; without a store of ours `fork` or `off`."""
    state_why: str | None = None
    uncached_models: Mapping[str, str] = field(default_factory=dict)
    """Loaded models that run without the cache, each with the reason."""
    lookups: Lookups = Lookups()
    restores: Restores = Restores()
    saves: Saves = Saves()
    disk: Disk = Disk()
    memory: Memory = Memory()

    @classmethod
    def of_no_store(cls, state: str) -> Self:
        """All zero."""
        return cls(state=state)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From the JSON of `Store.stats`."""
        return cls.of(json.loads(text))

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """From the core's JSON object."""
        counts = said["counts"]
        return cls(
            state=said["state"],
            state_why=said["state_why"],
            lookups=Lookups(
                count=counts["lookups"],
                hits=counts["hits"],
                full_hits=counts["full_hits"],
                misses=said["misses"],
                tokens_asked=counts["tokens_asked"],
                tokens_matched=counts["tokens_matched"],
                durations=Durations.of(said["lookup_us"]),
            ),
            restores=Restores(
                hot_tokens=counts["tokens_restored_hot"],
                cold_tokens=counts["tokens_restored_cold"],
                hot_blocks=counts["blocks_restored_hot"],
                cold_blocks=counts["blocks_restored_cold"],
                hot_bytes=counts["bytes_restored_hot"],
                cold_bytes=counts["bytes_restored_cold"],
                page_faults_per_second=said["page_faults_per_second"],
                page_fault_share=said["page_fault_share"],
                durations=Durations.of(said["restore_us"]),
                decode_durations=Durations.of(said["decode_us"]),
            ),
            saves=Saves(
                count=counts["saves"],
                deferred=counts["saves_deferred"],
                tokens=counts["tokens_saved"],
                bytes=counts["bytes_saved"],
                bytes_before_encoding=counts["bytes_before_encoding"],
                bytes_after_encoding=counts["bytes_after_encoding"],
                blocks=counts["blocks_saved"],
                snapshots=counts["snapshots_saved"],
                refused=said["refused"],
                queue_bytes=said["queue_bytes"],
                queue_records=said["queue_records"],
                backlog_bytes=said["backlog_bytes"],
                stall_durations=Durations.of(said["copy_us"]),
                durable_durations=Durations.of(said["durable_us"]),
                encode_durations=Durations.of(said["encode_us"]),
            ),
            disk=Disk(
                used_bytes=said["disk_bytes"],
                quota_bytes=said["quota_bytes"],
                live_bytes=said["live_bytes"],
                segments=said["segments"],
                blocks=said["blocks"],
                snapshots=said["snapshots"],
                tokens=said["tokens"],
                written_bytes=said["written_bytes"],
                written_today_bytes=said["written_today_bytes"],
                write_amplification=said["write_amplification"],
                commits=counts["commits"],
                committed_records=counts["records_committed"],
                committed_bytes=counts["bytes_committed"],
                compacted_bytes=counts["bytes_compacted"],
                evicted_records=counts["records_evicted"],
                evicted_bytes=counts["bytes_evicted"],
                expired_records=counts["records_expired"],
                quarantined_records=counts["quarantined"],
                read_errors=counts["read_errors"],
                lost_records=counts["records_lost"],
                lost_bytes=counts["bytes_lost"],
                lost_why=said["lost_why"],
                commit_durations=Durations.of(said["commit_us"]),
            ),
            memory=Memory(
                hot_bytes=said["hot_bytes"],
                hot_records=said["hot_records"],
                mapped_bytes=said["mapped_bytes"],
                index_bytes=said["index_bytes"],
                token_bytes=said["token_bytes"],
            ),
        )

    def summary(self) -> list[tuple[str, str]]:
        """What a person would want to know first, as name and text; lines that say nothing are left out."""
        lookups, restores, saves, disk, memory = self.lookups, self.restores, self.saves, self.disk, self.memory
        lines = [
            ("state", f"{self.state}: {self.state_why}" if self.state_why else self.state),
            *((f"not cached: {model}", why) for model, why in self.uncached_models.items()),
            ("lookups", f"{lookups.count:,}, {lookups.hits:,} hits; {lookups.token_hit_share:.0%} of tokens found"),
            ("misses", _by_reason(lookups.misses)),
            ("restored from RAM", _amount(restores.hot_tokens, restores.hot_bytes)),
            ("restored from disk", _amount(restores.cold_tokens, restores.cold_bytes)),
            ("page faults", f"{restores.page_faults_per_second:.1f}/s, {restores.page_fault_share:.0%} of blocks"),
            ("restore", str(restores.durations)),
            ("saved", _amount(saves.tokens, saves.bytes)),
            ("encoded", _encoded(saves)),
            ("save stalls", str(saves.stall_durations)),
            ("refused", _by_reason(saves.refused)),
            ("waiting", _waiting(saves)),
            ("durable after", str(saves.durable_durations)),
            ("on disk", f"{size_text(disk.used_bytes)} of {size_text(disk.quota_bytes)}, {disk.tokens:,} tokens"),
            ("written", f"{size_text(disk.written_bytes)}, x{disk.write_amplification:.2f}; "
                        f"{size_text(disk.written_today_bytes)} today"),
            ("evicted", f"{disk.evicted_records:,} records" if disk.evicted_records else ""),
            ("expired", f"{disk.expired_records:,} records" if disk.expired_records else ""),
            ("quarantined", f"{disk.quarantined_records:,} records" if disk.quarantined_records else ""),
            ("read errors", f"{disk.read_errors:,}" if disk.read_errors else ""),
            ("lost", f"{disk.lost_records:,} records: {disk.lost_why}" if disk.lost_records else ""),
            ("RAM", f"{size_text(memory.mapped_bytes)} payloads, "
                    f"{size_text(memory.index_bytes + memory.token_bytes)} index"),
        ]  # fmt: skip
        if self.state in ("off", "fork"):
            lines = lines[:1]
        return [(name, text) for name, text in lines if text not in ("", "-")]

    def __str__(self) -> str:
        lines = self.summary()
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)

    def _repr_html_(self) -> str:
        rows = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in self.summary())
        return f"<table>{''.join(rows)}</table>"


def _by_reason(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items() if count)


def _amount(tokens: int, count: int) -> str:
    return f"{tokens:,} tokens, {size_text(count)}" if tokens or count else ""


def _encoded(saves: Saves) -> str:
    before, after = saves.bytes_before_encoding, saves.bytes_after_encoding
    return f"{size_text(before)} kept as {size_text(after)}, x{after / before:.2f}" if before else ""


def _waiting(saves: Saves) -> str:
    if not (saves.queue_records or saves.backlog_bytes):
        return ""
    return f"{size_text(saves.queue_bytes)} for the disk, {size_text(saves.backlog_bytes)} for the queue"


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
