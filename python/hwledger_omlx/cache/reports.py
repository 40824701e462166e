"""What a store says of its folder and of what was done to it, typed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceUse:
    """Prompts of one identity: model, format and tenant."""

    key: bytes
    """Digest of the identity, 32 bytes."""
    label: str
    """The model's name."""
    blocks: int
    snapshots: int
    tokens: int
    disk_bytes: int
    last_used: datetime
    """In UTC."""

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """From the core's JSON object."""
        return cls(
            key=bytes(said["key"]),
            label=said["label"],
            blocks=said["blocks"],
            snapshots=said["snapshots"],
            tokens=said["tokens"],
            disk_bytes=said["disk_bytes"],
            last_used=datetime.fromtimestamp(said["last_used_ms"] / 1000, UTC),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreInfo:
    """What a folder holds."""

    folder: Path
    opened: str
    """`fresh`, `indexed`, or why the index had to be rebuilt."""
    opened_seconds: float
    """How long opening took."""
    namespaces: tuple[NamespaceUse, ...]
    blocks: int
    snapshots: int
    tokens: int
    pinned: int
    """Pinned prefixes."""
    live_bytes: int
    """What is stored, headers included."""
    disk_bytes: int
    """What all files take."""
    quota_bytes: int
    """What they may take."""
    segments: int
    """Segment files."""
    free_bytes: int
    """Free space of the file system."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From the JSON of `Store.info`."""
        said = json.loads(text)
        spaces = tuple(NamespaceUse.of(space) for space in said.pop("namespaces"))
        return cls(folder=Path(said.pop("folder")), namespaces=spaces, **said)


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRecord:
    """A record that failed verification. It is quarantined."""

    id: int
    segment: int
    """Number of its file."""
    offset: int
    """Where it begins there, in bytes."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What `Store.verify` found."""

    records: int
    """Records read."""
    bytes: int
    """Their payload."""
    bad: tuple[BadRecord, ...]
    stopped: bool
    """Whether it was stopped before the end."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From the JSON of `Store.verify`."""
        said = json.loads(text)
        return cls(bad=tuple(BadRecord(**record) for record in said.pop("bad")), **said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What a purge took away."""

    blocks: int = 0
    snapshots: int = 0
    bytes: int = 0
    """Their payload."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From the JSON of `Store.purge`."""
        return cls(**json.loads(text))

    def __add__(self, other: "Purged") -> "Purged":
        return Purged(
            blocks=self.blocks + other.blocks,
            snapshots=self.snapshots + other.snapshots,
            bytes=self.bytes + other.bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What a compaction did."""

    segments: int
    """Segment files that are gone."""
    moved_bytes: int
    """Live records written anew."""
    freed_bytes: int
    """Disk given back, less what was written anew."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From the JSON of `Store.compact`."""
        return cls(**json.loads(text))
