"""The arrays of layer caches that have a slice for each token: described, taken out to be stored, and put back.

Keys and values are stored in one of three ways. As the running cache holds them, encoded ones component by component,
so that nothing is encoded twice. Or in full, by the store as they are or, with a *codec*, encoded on their way to it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

import mlx.core as mx

from hwledger_omlx._native import kv_format_serves
from hwledger_omlx.hooks.layer_caches import formats
from hwledger_omlx.hooks.layer_caches.arrays import ArraySpec, dtype_name, hollow
from hwledger_omlx.hooks.layer_caches.dial import PLAIN, Dial, Path, Side
from hwledger_omlx.hooks.layer_caches.held import HeldTokens
from hwledger_omlx.hooks.layer_caches.quantized import QuantizedKVCache
from hwledger_omlx.hooks.paged_cache.leaves import Kind, Leaf, at

_DESCRIPTION_VERSION = 2
SideName = Literal["keys", "values"]
_SIDES: tuple[SideName, ...] = ("keys", "values")


@dataclass(frozen=True, slots=True)
class Part:
    """One array that has a slice for each token."""

    path: Path
    side: SideName
    kind: Kind
    live: str
    """The format whose component it is; `16` for keys or values in full."""
    component: str
    rows: int
    """Heads."""
    width: int
    """Elements of one token in one head."""
    dtype: str
    in_full: tuple[int, str]
    """Width and dtype of the keys or values that it is of."""
    codec: str = PLAIN
    """How the store keeps it; `16` for as it is."""

    def spec(self, tokens: int) -> ArraySpec:
        """The array of that many tokens: `[1, rows, tokens, width]`."""
        return ArraySpec((1, self.rows, tokens, self.width), self.dtype)

    @property
    def row_nbytes(self) -> int:
        """Bytes of one token in one head, in memory."""
        return self.spec(1).nbytes // self.rows

    @property
    def layout(self) -> tuple[int, int] | tuple[int, int, tuple[str, str, int]]:
        """What `Layout` takes."""
        if self.codec == PLAIN:
            return self.rows, self.row_nbytes
        return self.rows, self.row_nbytes, (self.codec, self.dtype, self.width)


@dataclass(frozen=True, slots=True)
class Stored:
    """Arrays to be stored, with what they are and the position of each one's first token."""

    parts: tuple[Part, ...]
    arrays: tuple[Any, ...]
    first_tokens: tuple[int, ...]


def stored(found: Sequence[Leaf], dial: Dial, since: int = 0) -> Stored:
    """The arrays of the leaves as they are now, evaluated, in the order of the layers, keys before values.

    The leaves must have been updated once; before, their heads and dtypes are not known.

    Args:
        found: the leaves.
        dial: how they are kept at rest.
        since: tokens that are stored already. What takes work to take out may begin there.
    """
    taken = [
        each for leaf in found if leaf.kind != "state" for name in _SIDES for each in _taken(leaf, name, dial, since)
    ]
    mx.eval([array for _, array, _ in taken])
    described, arrays, first_tokens = zip(*taken, strict=True) if taken else ((), (), ())
    return Stored(tuple(described), tuple(arrays), tuple(first_tokens))


def _taken(leaf: Leaf, name: SideName, dial: Dial, since: int) -> list[tuple[Part, Any, int]]:
    side: Side = getattr(dial.of(leaf.path), name)
    if isinstance(leaf.cache, QuantizedKVCache):
        held: HeldTokens = getattr(leaf.cache, f"held_{name}")
        form = held.format
        if side.rest == form.name and not formats.is_plain(form) and form.run_tokens == 1:
            components, first = held.components_since(since)
            return [
                (_component(leaf, name, held, component.name, array), array, first)
                for component, array in zip(form.components, components, strict=True)
            ]
        dense, first = held.dense_since(since)
    elif leaf.kind == "window":
        dense, first = _window(leaf.cache, name)
    else:
        dense, first = getattr(leaf.cache, name)[..., : leaf.cache.offset, :], 0
    return [(_in_full(leaf, name, dense, side.rest), dense, first)]


def _in_full(leaf: Leaf, name: SideName, array: Any, codec: str) -> Part:
    _, rows, _, width = array.shape
    dtype = dtype_name(array.dtype)
    return Part(leaf.path, name, leaf.kind, PLAIN, "", rows, width, dtype, (width, dtype), codec if width else PLAIN)


def _component(leaf: Leaf, name: SideName, held: HeldTokens, component: str, array: Any) -> Part:
    _, rows, _, width = array.shape
    assert held.like is not None  # noqa: S101  there are tokens
    in_full = held.like.shape[-1], held.like.dtype
    return Part(leaf.path, name, leaf.kind, held.format.name, component, rows, width, dtype_name(array.dtype), in_full)


def _window(cache: Any, name: SideName) -> tuple[Any, int]:
    # mlx-lm's own order of a rotating buffer: oldest first.
    ordered = cache._temporal_order(getattr(cache, name))
    held = min(int(ordered.shape[2]), int(cache.offset))
    return ordered[..., -held:, :], int(cache.offset) - held


def describe(described: Sequence[Part], policy: str) -> bytes:
    """The parts, and the policy that they follow, as bytes that `described_by` reads; the same for the same."""
    entries = [
        [
            list(each.path),
            each.side,
            each.kind,
            each.live,
            each.component,
            each.rows,
            each.width,
            each.dtype,
            list(each.in_full),
            each.codec,
        ]
        for each in described
    ]
    return json.dumps([_DESCRIPTION_VERSION, policy, entries], separators=(",", ":")).encode()


@lru_cache(maxsize=64)
def described_by(description: bytes) -> tuple[Part, ...]:
    """The parts that `describe` wrote down.

    Raises:
        ValueError: another version wrote them.
    """
    return tuple(_described_part(*entry) for entry in _read(description)[1])


def _described_part(path: list[int], *before: Any) -> Part:
    side, kind, live, component, rows, width, dtype, (full_width, full_dtype), codec = before
    return Part(tuple(path), side, kind, live, component, rows, width, dtype, (full_width, full_dtype), codec)


def serves(described: Sequence[Part], dial: Dial) -> bool:
    """Whether what these parts hold may be restored into caches of a dial: nowhere is it less precise."""
    return all(
        kv_format_serves(part.live if part.live != PLAIN else part.codec, getattr(dial.of(part.path), part.side).live)
        for part in described
    )


def policy_of(description: bytes) -> str:
    """The policy that `describe` wrote down.

    Raises:
        ValueError: another version wrote it.
    """
    return str(_read(description)[0])


def _read(description: bytes) -> tuple[str, list[Any]]:
    version, *rest = json.loads(description)
    if version != _DESCRIPTION_VERSION:
        raise ValueError(f"the layout is of version {version}, not {_DESCRIPTION_VERSION}")
    return rest[0], rest[1]


@dataclass(frozen=True, slots=True)
class Room:
    """Memory for a restored prefix: an array for each part, and the position of each one's first token."""

    arrays: tuple[Any, ...]
    first_tokens: tuple[int, ...]


def room(described: Sequence[Part], caches: Sequence[Any], tokens: int, reserve_tokens: int) -> Room:
    """Untouched arrays for the first `tokens` tokens in the layers `caches`, with head-room where the layer grows."""
    specs, first_tokens = [], []
    for part in described:
        first, count = _span(part, at(caches, part.path), tokens, reserve_tokens)
        specs.append(part.spec(count))
        first_tokens.append(first)
    return Room(tuple(hollow(specs)), tuple(first_tokens))


def _span(part: Part, cache: Any, tokens: int, reserve_tokens: int) -> tuple[int, int]:
    """From which token on a part is wanted, and how many tokens its array is to have."""
    if part.kind == "window":
        held = min(tokens, int(cache.max_size))
        return tokens - held, held
    if isinstance(cache, QuantizedKVCache):
        held_side: HeldTokens = getattr(cache, f"held_{part.side}")
        # The first tokens are not held as they were stored.
        first = min(held_side.first_tokens, tokens)
        goes_in_as_it_is = part.live != PLAIN and part.live == held_side.format.name
        return first, max(tokens, reserve_tokens if goes_in_as_it_is else 0) - first
    return 0, max(tokens, reserve_tokens if part.live == PLAIN else 0)


def fill(caches: Sequence[Any], described: Sequence[Part], arrays: Sequence[Any], tokens: int) -> None:
    """Makes the layers `caches`, which are empty, hold `tokens` tokens in these arrays.

    What was stored at another format than the layer has is decoded, and encoded again where the layer encodes.
    """
    whole = zip(described, arrays, strict=True)
    for (path, side), group in groupby(whole, key=lambda each: (each[0].path, each[0].side)):
        pairs = list(group)
        cache, part = at(caches, path), pairs[0][0]
        components = [array for _, array in pairs]
        if isinstance(cache, QuantizedKVCache):
            _fill_held(getattr(cache, f"held_{side}"), part, components, tokens)
            continue
        setattr(cache, side, components[0] if part.live == PLAIN else _decoded(part, components, tokens))
        cache.offset = tokens
        if part.kind == "window":
            cache._idx = components[0].shape[2]


def _fill_held(held: HeldTokens, part: Part, components: list[Any], tokens: int) -> None:
    behind_first = tokens - min(held.first_tokens, tokens)
    if held.format.name == part.live and held.format.run_tokens == 1 and part.live != PLAIN:
        held.put_encoded(components, behind_first, _like(part))
        return
    dense = components[0] if part.live == PLAIN else _decoded(part, components, behind_first)
    held.put_dense(dense[..., :behind_first, :])


def _decoded(part: Part, components: Sequence[Any], tokens: int) -> Any:
    return formats.parse(part.live).decode([array[..., :tokens, :] for array in components], _like(part))


def _like(part: Part) -> ArraySpec:
    width, dtype = part.in_full
    return ArraySpec((1, part.rows, 1, width), dtype)
