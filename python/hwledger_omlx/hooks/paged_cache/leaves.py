"""How the layer caches of mlx-lm are stored and made again: which of them can be cut, and where their arrays are.

A *leaf* is a cache that is not a list of caches. What can be done with one follows from its class:

- `sequence` (`KVCache`, and ours in its place): keys and values have a slice for each token; any prefix can be cut out
  of them.
- `window` (`RotatingKVCache`): a token's keys and values do not depend on where the window begins, so they are stored
  token by token as well, and a prefix is restored from its last `max_size` tokens.
- `state` (`ArraysCache`): what a recurrent layer remembers of all tokens so far; it exists at the points where a
  snapshot of it was taken, and nowhere else.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache

from hwledger_omlx.hooks.layer_caches.arrays import ArraySpec, dtype_name, hollow, view
from hwledger_omlx.hooks.layer_caches.dial import Path
from hwledger_omlx.hooks.layer_caches.live import LiveKVCache
from hwledger_omlx.hooks.layer_caches.quantized import QuantizedKVCache

Kind = Literal["sequence", "window", "state"]
_DESCRIPTION_VERSION = 1


class UnsupportedCacheError(Exception):
    """A layer's cache is of a class that cannot be stored; the message names it."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One cache, with what can be done with it."""

    path: Path
    kind: Kind
    cache: Any


def kind_of(cache: Any) -> Kind:
    """What can be done with a leaf.

    Raises:
        UnsupportedCacheError: nothing.
    """
    if type(cache) in (KVCache, LiveKVCache, QuantizedKVCache):
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


def token_count(found: Sequence[Leaf]) -> int | None:
    """Tokens that the leaves hold; None where no leaf counts them, as with nothing but recurrent layers.

    Raises:
        ValueError: they do not agree.
    """
    counts = {int(leaf.cache.offset) for leaf in found if leaf.kind != "state"}
    if len(counts) > 1:
        raise ValueError(f"the layers hold {', '.join(map(str, sorted(counts)))} tokens")
    return counts.pop() if counts else None


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
