"""The fields of a memory report, as Rust's `memory::live` and `schema/hwledger.v1.json` have them."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")
Source = Literal["measured", "computed", "unavailable"]
Phase = Literal["idle", "restore", "prefill", "join", "decode"]
Stage = Literal["waiting", "prefill", "decode"]
CacheKind = Literal["sequence", "window", "state", "other"]


@dataclass(frozen=True, slots=True)
class Figure(Generic[T]):
    """A number with where it comes from. What is not known has none, and says why."""

    value: T | None
    """In the unit that the name of the field says."""
    source: Source
    how: str
    """What was read, how it was worked out, or why it is not known."""


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """The process."""

    pid: int
    footprint_bytes: Figure[int]
    """Memory that is its alone: macOS `phys_footprint`, Linux `Anonymous + Swap` of `smaps_rollup`."""
    major_faults: Figure[int]
    """Page faults that had to read from a disk, since it began."""
    major_faults_per_s: Figure[float]


@dataclass(frozen=True, slots=True)
class MlxMemory:
    """MLX's own account, of all models of the process."""

    active_bytes: Figure[int]
    """All arrays."""
    cache_bytes: Figure[int]
    """What it keeps for new arrays."""
    peak_bytes: Figure[int]
    """The most that all arrays were, since the process began or the counter was reset."""
    device_bytes: Figure[int]
    """Memory of the device."""
    free_bytes: Figure[int]
    """What of it nobody has."""


@dataclass(frozen=True, slots=True)
class StoreMemory:
    """The paged cache."""

    hot_bytes: Figure[int]
    """RAM of what is durable and still held."""
    mapped_bytes: Figure[int]
    """RAM mapped for payloads, in use or ready for it; the hot tier is in it."""
    restored_bytes: Figure[int]
    """Given back to requests, from RAM and from disk."""
    page_faults: Figure[int]
    """Blocks read from disk for that."""
    page_faults_per_s: Figure[float]


@dataclass(frozen=True, slots=True)
class Peak:
    """The highest that MLX's memory went, and when."""

    bytes: Figure[int]
    phase: Phase
    """What was being done."""
    request_id: str | None
    """For whom, where it was for one request."""
    chunk: int | None
    """Of its prompt, from 1, where it was in prefill."""
    unix_s: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the samples of a model were taken."""

    state: Literal["on", "off"]
    why: str | None
    """Why there are none, or what is missing of them."""
    decode_steps: int
    """A sample is taken at every chunk of prefill, and every so many steps of decoding."""
    latest_unix_s: float | None
    samples: int
    capacity: int
    """How many of them are kept."""
    dropped: int
    """Samples that had more caches than there is room for."""
    failures: int
    """Samples that could not be taken."""
    last_failure: str | None


@dataclass(frozen=True, slots=True)
class CacheUse:
    """One cache of one request."""

    layer: int
    """Index in the model's list of caches."""
    place: int
    """Index in the layer's list of caches; 0 where it has one."""
    kind: CacheKind
    cache_class: str
    k_format: str
    """A format's name, or the type of the numbers; empty for a state."""
    v_format: str
    k_bits: float | None
    """Of a number; scales and biases left out."""
    v_bits: float | None
    tokens: Figure[int]
    allocated_bytes: Figure[int]
    used_bytes: Figure[int]


@dataclass(frozen=True, slots=True)
class RequestMemory:
    """One request."""

    request_id: str
    """Empty for rows of the batch that belong to no request any more."""
    stage: Stage
    kv_policy: str
    prompt_tokens: int
    cached_tokens: int
    tokens: Figure[int]
    """Held by its caches."""
    kv_allocated_bytes: Figure[int]
    kv_used_bytes: Figure[int]
    state_bytes: Figure[int]
    peak: Peak | None
    """While it was at work."""
    caches: tuple[CacheUse, ...]


@dataclass(frozen=True, slots=True)
class LayerUse:
    """One layer, of all requests."""

    layer: int
    cache_classes: tuple[str, ...]
    k_formats: tuple[str, ...]
    v_formats: tuple[str, ...]
    kv_allocated_bytes: Figure[int]
    kv_used_bytes: Figure[int]
    state_bytes: Figure[int]


@dataclass(frozen=True, slots=True)
class History:
    """Samples of a model, the oldest first, as columns; of a run of samples the one at the highest peak."""

    samples_a_point: int
    unix_s: tuple[float, ...]
    phase: tuple[Phase, ...]
    mlx_active_bytes: tuple[int | None, ...]
    mlx_cache_bytes: tuple[int | None, ...]
    mlx_peak_bytes: tuple[int | None, ...]
    layer_bytes: tuple[tuple[int, ...], ...]
    """Of each layer's caches, of all requests, at each point."""


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """One loaded model, at its latest sample."""

    model_id: str
    kv_policy: str
    """Of new requests."""
    weights_bytes: Figure[int]
    kv_allocated_bytes: Figure[int]
    """Keys and values of all requests."""
    kv_used_bytes: Figure[int]
    """What of them holds tokens."""
    state_bytes: Figure[int]
    activations_bytes: Figure[int]
    """The most that a chunk of prefill or some steps of decoding took beyond what was there after them."""
    peak: Peak | None
    sampling: Sampling
    requests: tuple[RequestMemory, ...]
    layers: tuple[LayerUse, ...]
    history: History


@dataclass(frozen=True, slots=True)
class MemoryEvent:
    """One sample: sums, and each layer's bytes. What is None was not known when it was taken; the report says why."""

    number: int
    """Of the model's samples, from 0."""
    missed: int
    """Samples before it that the reader came too late for."""
    unix_s: float
    model_id: str
    phase: Phase
    """What the time up to it was spent on."""
    request_id: str | None
    chunk: int | None
    requests: int
    """That have caches."""
    mlx_active_bytes: int | None
    mlx_cache_bytes: int | None
    mlx_peak_bytes: int | None
    """Since the sample before."""
    footprint_bytes: int | None
    """By the cheapest reading: macOS `phys_footprint`, Linux the resident pages."""
    hot_bytes: int | None
    restored_bytes: int | None
    page_faults: int | None
    kv_allocated_bytes: int | None
    kv_used_bytes: int | None
    state_bytes: int | None
    layer_bytes: tuple[int, ...]


def read(kind: type[T], said: Mapping[str, Any]) -> T:
    """The record of that class which a JSON object says.

    Fields that the class does not have are passed over: a later version may have added them.

    Raises:
        KeyError: one is missing.
    """
    record: T = _read(kind, said)
    return record


def _read(kind: Any, said: Any) -> Any:
    if said is None:
        return None
    plain: Any = typing.get_origin(kind) or kind
    if isinstance(plain, type) and dataclasses.is_dataclass(plain):
        return plain(**{name: _read(inner, said[name]) for name, inner in _fields(plain)})
    if plain is tuple:
        inner = typing.get_args(kind)[0]
        if inner in (int, float, str):
            return tuple(said)
        return tuple(_read(inner, each) for each in said)
    if plain in (types.UnionType, typing.Union):
        return _read(next(each for each in typing.get_args(kind) if each is not type(None)), said)
    return said


_known: dict[type, tuple[tuple[str, Any], ...]] = {}


def _fields(kind: type) -> tuple[tuple[str, Any], ...]:
    """Names and types; looked up once, for a report has hundreds of caches."""
    if kind not in _known:
        hints = typing.get_type_hints(kind)
        _known[kind] = tuple((field.name, hints[field.name]) for field in dataclasses.fields(kind))
    return _known[kind]
