"""How the layer caches of mlx-lm are stored and made again: which of them can be cut, and where their arrays are.

A *leaf* is a cache that is not a list of caches. What can be done with one follows from its class:

- `sequence` (`KVCache`): keys and values have a slice for each token; any prefix can be cut out of them.
- `window` (`RotatingKVCache`): a token's keys and values do not depend on where the window begins, so they are stored
  token by token as well, and a prefix is restored from its last `max_size` tokens.
- `state` (`ArraysCache`): what a recurrent layer remembers of all tokens so far; it exists at the points where a
  snapshot of it was taken, and nowhere else.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache

from hwledger_omlx.hooks.paged_cache.arrays import ArraySpec, dtype_name, hollow, view
from hwledger_omlx.hooks.paged_cache.live import LiveKVCache

Kind = Literal["sequence", "window", "state"]
Path = tuple[int, ...]
"""Place of a leaf: index of the layer, then of the cache in the layer's list."""

_DESCRIPTION_VERSION = 1


class UnsupportedCacheError(Exception):
    """A layer's cache is of a class that cannot be stored; the message names it."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One cache, with what can be done with it."""

    path: Path
    kind: Kind
    cache: Any


@dataclass(frozen=True, slots=True)
class Part:
    """One array that has a slice for each token: the keys or the values of a leaf."""

    path: Path
    name: Literal["keys", "values"]
    kind: Kind
    rows: int
    """Heads."""
    width: int
    """Elements of one token in one head."""
    dtype: str

    def spec(self, tokens: int) -> ArraySpec:
        """The array of that many tokens: `[1, rows, tokens, width]`."""
        return ArraySpec((1, self.rows, tokens, self.width), self.dtype)

    @property
    def row_nbytes(self) -> int:
        """Bytes of one token in one head."""
        return self.spec(1).nbytes // self.rows


def kind_of(cache: Any) -> Kind:
    """What can be done with a leaf.

    Raises:
        UnsupportedCacheError: nothing.
    """
    if type(cache) in (KVCache, LiveKVCache):
        return "sequence"
    # Tokens that are kept at the front for good are in no window.
    if type(cache) is RotatingKVCache and cache.keep == 0:
        return "window"
    if type(cache) is ArraysCache:
        return "state"
    raise UnsupportedCacheError(type(cache).__name__)


def leaves(caches: Sequence[Any]) -> list[Leaf]:
    """The leaves of a model's layer caches, in the order of the layers.

    Raises:
        UnsupportedCacheError: one of them cannot be stored.
    """
    return [Leaf(path, kind_of(cache), cache) for path, cache in _walk(caches, ())]


def _walk(caches: Sequence[Any], above: Path) -> Iterator[tuple[Path, Any]]:
    for index, cache in enumerate(caches):
        path = (*above, index)
        if isinstance(cache, CacheList):
            yield from _walk(cache.caches, path)
        else:
            yield path, cache


def class_names(caches: Sequence[Any]) -> list[str]:
    """Names of the classes of all leaves, in the order of the layers."""
    return [type(cache).__name__ for _, cache in _walk(caches, ())]


def with_room(caches: Sequence[Any], reserve_tokens: int) -> list[Any]:
    """The same layers, with a `LiveKVCache` in the place of each empty `KVCache`."""
    return [_with_room(cache, reserve_tokens) for cache in caches]


def _with_room(cache: Any, reserve_tokens: int) -> Any:
    if isinstance(cache, CacheList):
        return CacheList(*with_room(cache.caches, reserve_tokens))
    return LiveKVCache(reserve_tokens) if type(cache) is KVCache else cache


def token_count(found: Sequence[Leaf]) -> int | None:
    """Tokens that the leaves hold; None where no leaf counts them, as with nothing but recurrent layers.

    Raises:
        ValueError: they do not agree.
    """
    counts = {int(leaf.cache.offset) for leaf in found if leaf.kind != "state"}
    if len(counts) > 1:
        raise ValueError(f"the layers hold {', '.join(map(str, sorted(counts)))} tokens")
    return counts.pop() if counts else None


def parts(found: Sequence[Leaf]) -> tuple[Part, ...]:
    """The arrays that have a slice for each token, in the order of the layers, keys before values.

    The leaves must have been updated once; before, their heads and dtypes are not known.
    """
    described = []
    for leaf in found:
        if leaf.kind == "state":
            continue
        for name, array in (("keys", leaf.cache.keys), ("values", leaf.cache.values)):
            _, rows, _, width = array.shape
            described.append(Part(leaf.path, name, leaf.kind, rows, width, dtype_name(array.dtype)))  # type: ignore[arg-type]
    return tuple(described)


def describe(described: Sequence[Part]) -> bytes:
    """The parts as bytes that `described_by` reads, the same for the same parts."""
    entries = [[list(part.path), part.name, part.kind, part.rows, part.width, part.dtype] for part in described]
    return json.dumps([_DESCRIPTION_VERSION, entries], separators=(",", ":")).encode()


@lru_cache(maxsize=64)
def described_by(description: bytes) -> tuple[Part, ...]:
    """The parts that `describe` wrote down.

    Raises:
        ValueError: another version wrote them.
    """
    version, entries = json.loads(description)
    if version != _DESCRIPTION_VERSION:
        raise ValueError(f"the layout is of version {version}, not {_DESCRIPTION_VERSION}")
    return tuple(Part(tuple(path), *rest) for path, *rest in entries)


@dataclass(frozen=True, slots=True)
class Stored:
    """Arrays to be stored, one for each part, and the position of each one's first token."""

    arrays: tuple[Any, ...]
    first_tokens: tuple[int, ...]


def stored(found: Sequence[Leaf]) -> Stored:
    """The arrays of the leaves as they are now: evaluated views, in the order of `parts`."""
    arrays: list[Any] = []
    first_tokens: list[int] = []
    for leaf in found:
        if leaf.kind == "state":
            continue
        keys, values, first = _sequence(leaf.cache) if leaf.kind == "sequence" else _window(leaf.cache)
        arrays += (keys, values)
        first_tokens += (first, first)
    mx.eval(arrays)
    return Stored(tuple(arrays), tuple(first_tokens))


def _sequence(cache: Any) -> tuple[Any, Any, int]:
    return cache.keys[..., : cache.offset, :], cache.values[..., : cache.offset, :], 0


def _window(cache: Any) -> tuple[Any, Any, int]:
    # mlx-lm's own order of a rotating buffer: oldest first.
    keys, values = cache._temporal_order(cache.keys), cache._temporal_order(cache.values)
    held = min(int(keys.shape[2]), int(cache.offset))
    return keys[..., -held:, :], values[..., -held:, :], int(cache.offset) - held


@dataclass(frozen=True, slots=True)
class Room:
    """Memory for a restored prefix: an array for each part, and the position of each one's first token."""

    arrays: tuple[Any, ...]
    first_tokens: tuple[int, ...]


def room(described: Sequence[Part], caches: Sequence[Any], tokens: int, reserve_tokens: int) -> Room:
    """Untouched arrays for the first `tokens` tokens in the layers `caches`, with head-room where the layer grows."""
    specs, first_tokens = [], []
    for part in described:
        if part.kind == "window":
            held = min(tokens, int(at(caches, part.path).max_size))
            specs.append(part.spec(held))
            first_tokens.append(tokens - held)
        else:
            specs.append(part.spec(max(tokens, reserve_tokens)))
            first_tokens.append(0)
    return Room(tuple(hollow(specs)), tuple(first_tokens))


def fill(caches: Sequence[Any], described: Sequence[Part], arrays: Sequence[Any], tokens: int) -> None:
    """Makes the layers `caches`, which are empty, hold `tokens` tokens in these arrays."""
    for part, array in zip(described, arrays, strict=True):
        cache = at(caches, part.path)
        setattr(cache, part.name, array)
        cache.offset = tokens
        if part.kind == "window":
            cache._idx = array.shape[2]


def at(caches: Sequence[Any], path: Path) -> Any:
    """The leaf at `path`."""
    cache = caches[path[0]]
    for index in path[1:]:
        cache = cache.caches[index]
    return cache


def snapshot(found: Sequence[Leaf]) -> tuple[bytes, list[Any]]:
    """What the recurrent leaves remember now: a description, and the arrays that it speaks of, evaluated and dense."""
    entries: list[object] = []
    arrays: list[Any] = []
    for leaf in found:
        if leaf.kind != "state":
            continue
        held = leaf.cache.state
        arrays += [mx.contiguous(view(array)) for array in held if array is not None]
        entries.append([leaf.path, [None if each is None else [each.shape, dtype_name(each.dtype)] for each in held]])
    mx.eval(arrays)
    return json.dumps([_DESCRIPTION_VERSION, entries], separators=(",", ":")).encode(), arrays


def snapshot_room(meta: bytes) -> list[Any]:
    """Untouched arrays for a snapshot with that description.

    Raises:
        ValueError: another version wrote it.
    """
    return hollow([ArraySpec(tuple(shape), dtype) for _, held in _entries(meta) for shape, dtype in filter(None, held)])


def remember(caches: Sequence[Any], meta: bytes, arrays: Sequence[Any]) -> None:
    """Gives the recurrent leaves of `caches` the state that a snapshot has."""
    remaining = iter(arrays)
    for path, held in _entries(meta):
        at(caches, tuple(path)).state = [None if each is None else next(remaining) for each in held]


def _entries(meta: bytes) -> Any:
    version, entries = json.loads(meta)
    if version != _DESCRIPTION_VERSION:
        raise ValueError(f"the snapshot is of version {version}, not {_DESCRIPTION_VERSION}")
    return entries
