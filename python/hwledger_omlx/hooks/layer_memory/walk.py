"""Reads what layer caches hold: bytes allocated and used, and tokens. Evaluates nothing, and keeps no array alive.

Sizes of lazy arrays are known before their numbers are, so a sample never waits for the device. What a batch has is
attributed to its rows: a `RowsKVCache` has a cache for each; arrays that rows share have one slice of the first axis
for each, of the same size; and how many tokens a row of those has follows from how much shorter its request is than
the longest, for the array that says so would have to be evaluated.
"""

from collections.abc import Callable, Sequence
from typing import Any

from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    RotatingKVCache,
)

from hwledger_omlx._native import LayerMemory
from hwledger_omlx.hooks.layer_caches.arrays import dtype_name
from hwledger_omlx.hooks.layer_caches.formats import is_plain
from hwledger_omlx.hooks.layer_caches.held import HeldTokens
from hwledger_omlx.hooks.layer_caches.live import LiveBatchKVCache, LiveKVCache
from hwledger_omlx.hooks.layer_caches.quantized import QuantizedKVCache
from hwledger_omlx.hooks.layer_caches.rows import RowsKVCache

UNKNOWN = -1
CELL_NUMBERS = 4

Numbers = tuple[int, int, int]
"""Bytes allocated, bytes used, tokens; `UNKNOWN` for what is not known."""
Reader = Callable[[Any], Numbers]

_SHARING = (LiveBatchKVCache, BatchKVCache, BatchRotatingKVCache)


class Walk:
    """The cells of one sample, as `LayerMemory.record` takes them.

    Args:
        ledger: knows the shapes.
    """

    def __init__(self, ledger: LayerMemory) -> None:
        self._ledger = ledger
        # By layer, place, class and formats. Formats are known by their address, so they are kept.
        self._shapes: dict[tuple[Any, ...], tuple[int, Any]] = {}
        self._planned_for: list[int] = []
        self._plan: list[tuple[type | None, int, int]] = []
        self.rows: list[int] = []
        self.cells: list[int] = []
        self.by_request: dict[int, list[int]] = {}
        """The cells of each request."""

    def clear(self) -> None:
        """Begins the next sample."""
        self.rows, self.cells, self.by_request = [], [], {}

    def add_own(self, request: int, caches: Sequence[Any]) -> None:
        """Adds caches that one request has for itself."""
        row: list[int] = []
        for layer, cache in enumerate(caches):
            self._own(row, cache, layer, 0)
        self._add(request, row)

    def add_batch(self, requests: Sequence[int], lengths: Sequence[int], caches: Sequence[Any]) -> None:
        """Adds the caches of a batch.

        Args:
            requests: the request of each row, 0 for none.
            lengths: tokens that each row's request has; `UNKNOWN` for what is not known.
            caches: one for each layer.
        """
        rows: list[list[int]] = [[] for _ in requests]
        longest = UNKNOWN if UNKNOWN in lengths else max(lengths, default=0)
        # By how much each is shorter than the longest.
        shorter = [UNKNOWN if longest == UNKNOWN else longest - length for length in lengths]
        # Numbers of requests do not come twice, so the same ones in the same order are the same rows.
        if self._planned_for != requests or len(self._plan) != len(caches):
            self._plan = [self._planned(cache, layer, len(rows)) for layer, cache in enumerate(caches)]
            self._planned_for = list(requests)
        for layer, ((kind, shape, column_bytes), cache) in enumerate(zip(self._plan, caches, strict=True)):
            if type(cache) is kind:
                _shared_cells(rows, shorter, cache, shape, column_bytes)
            else:
                self._batched(rows, shorter, cache, layer, 0)
        for request, row in zip(requests, rows, strict=True):
            self._add(request, row)

    def _planned(self, cache: Any, layer: int, rows: int) -> tuple[type | None, int, int]:
        """The class, the shape, and the bytes of a column, of arrays that all rows share; no class for all else.

        Neither changes before a row comes or goes. No cache is kept: it would keep its memory.
        """
        if type(cache) not in _SHARING or cache.keys is None or not cache.keys.shape[2]:
            return None, 0, 0
        column_bytes = (cache.keys.nbytes + cache.values.nbytes) // cache.keys.shape[2]
        return type(cache), self._shape(cache, layer, 0, shared=rows > 1), column_bytes

    def _add(self, request: int, row: list[int]) -> None:
        self.rows += (request, len(row) // CELL_NUMBERS)
        self.cells += row
        self.by_request[request] = row

    def _own(self, row: list[int], cache: Any, layer: int, place: int) -> None:
        kind = type(cache)
        if kind is CacheList:
            for index, each in enumerate(cache.caches):
                self._own(row, each, layer, place + index)
            return
        shape = self._shape(cache, layer, place, shared=False)
        row.append(shape)
        row += _OWN.get(kind, _other)(cache)

    def _batched(self, rows: list[list[int]], shorter: Sequence[int], cache: Any, layer: int, place: int) -> None:
        kind = type(cache)
        if kind is CacheList:
            for index, each in enumerate(cache.caches):
                self._batched(rows, shorter, each, layer, place + index)
            return
        if kind is RowsKVCache:
            for row, each in zip(rows, cache.rows, strict=True):
                self._own(row, each, layer, place)
            return
        if len(rows) == 1 and kind not in _SHARING:
            self._own(rows[0], cache, layer, place)
            return
        shape = self._shape(cache, layer, place, shared=len(rows) > 1)
        if kind in _SHARING:
            keys = cache.keys
            columns = 0 if keys is None else keys.shape[2]
            nbytes = 0 if keys is None else keys.nbytes + cache.values.nbytes
            _shared_cells(rows, shorter, cache, shape, nbytes // columns if columns else 0)
            return
        allocated = _OWN.get(kind, _other)(cache)[0]
        share, left_over = divmod(allocated, len(rows))
        for index, row in enumerate(rows):
            # Nothing is lost of what does not divide, so that the sum is that of the arrays.
            held = UNKNOWN if allocated == UNKNOWN else share + left_over if index == 0 else share
            row += (shape, held, held if kind is ArraysCache else UNKNOWN, UNKNOWN)

    def _shape(self, cache: Any, layer: int, place: int, *, shared: bool) -> int:
        kind = type(cache)
        if kind is QuantizedKVCache:
            formats = (cache.held_keys.format, cache.held_values.format)
            key: tuple[Any, ...] = (layer, place, kind, id(formats[0]), id(formats[1]))
        else:
            formats = None
            # What holds nothing yet does not say of which type its numbers will be.
            key = (layer, place, kind, shared, getattr(cache, "keys", None) is None)
        known = self._shapes.get(key)
        if known is None:
            known = self._shapes[key] = (self._described(cache, layer, place, shared=shared), formats)
        return known[0]

    def _described(self, cache: Any, layer: int, place: int, *, shared: bool) -> int:
        kind = type(cache)
        name = kind.__name__
        if kind is QuantizedKVCache:
            (k_format, k_bits), (v_format, v_bits) = (
                _held_format(each) for each in (cache.held_keys, cache.held_values)
            )
        elif kind is ArraysCache:
            return self._ledger.shape(layer, place, "state", name, shared=shared)
        else:
            (k_format, k_bits), (v_format, v_bits) = (_plain_format(cache, each) for each in ("keys", "values"))
        why = "" if kind in _OWN or kind in _SHARING else f"the class {name} is not known here"
        return self._ledger.shape(
            layer,
            place,
            _KINDS.get(kind, "other"),
            name,
            k_format=k_format,
            v_format=v_format,
            k_bits=k_bits,
            v_bits=v_bits,
            shared=shared,
            why_unknown=why,
        )


def _held_format(held: HeldTokens) -> tuple[str, float | None]:
    if is_plain(held.format):
        dtype = held.like.dtype if held.like is not None else ""
        return dtype or held.format.name, None if held.like is None else 8.0 * held.like.itemsize
    bits: float = getattr(held.format, "bits")  # noqa: B009  no part of the protocol; every format that is not plain has it
    return held.format.name, float(bits)


def _plain_format(cache: Any, name: str) -> tuple[str, float | None]:
    dtype = getattr(getattr(cache, name, None), "dtype", None)
    return ("", None) if dtype is None else (dtype_name(dtype), 8.0 * dtype.size)


# -- one request's caches ---------------------------------------------------------------------------------------


def _sequence(cache: Any) -> Numbers:
    keys = cache.keys
    if keys is None:
        return 0, 0, 0
    allocated = keys.nbytes + cache.values.nbytes
    tokens = cache.offset
    return allocated, allocated * tokens // (keys.shape[2] or 1), tokens


def _window(cache: Any) -> Numbers:
    keys = cache.keys
    if keys is None:
        return 0, 0, 0
    allocated, capacity = keys.nbytes + cache.values.nbytes, keys.shape[2]
    tokens = min(cache.offset, capacity)
    return allocated, allocated * tokens // (capacity or 1), tokens


def _chunked(cache: Any) -> Numbers:
    keys = cache.keys
    if keys is None:
        return 0, 0, 0
    allocated, capacity = keys.nbytes + cache.values.nbytes, keys.shape[2]
    tokens = min(cache.offset - cache.start_position, capacity)
    return allocated, allocated * tokens // (capacity or 1), tokens


def _state(cache: Any) -> Numbers:
    allocated = sum(array.nbytes for array in cache.cache if array is not None)
    return allocated, allocated, UNKNOWN


def _quantized(cache: Any) -> Numbers:
    held_keys, held_values = cache.held_keys, cache.held_values
    keys_allocated, keys_used = _held(held_keys)
    values_allocated, values_used = _held(held_values)
    return keys_allocated + values_allocated, keys_used + values_used, held_keys.tokens


def _held(held: HeldTokens) -> tuple[int, int]:
    plain = sum(array.nbytes for array in (held.front, held.tail) if array is not None)
    allocated = used = plain
    for array, component in zip(held.encoded, held.format.components, strict=False):
        nbytes, slots = array.nbytes, array.shape[component.axis]
        allocated += nbytes
        used += nbytes * component.slot(held.encoded_tokens) // (slots or 1)
    return allocated, used


def _other(cache: Any) -> Numbers:
    try:
        nbytes = int(cache.nbytes)
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return UNKNOWN, UNKNOWN, UNKNOWN
    offset = getattr(cache, "offset", None)
    return nbytes, UNKNOWN, offset if type(offset) is int else UNKNOWN


_OWN: dict[type, Reader] = {
    LiveKVCache: _sequence,
    KVCache: _sequence,
    ConcatenateKVCache: _sequence,
    RotatingKVCache: _window,
    ChunkedKVCache: _chunked,
    ArraysCache: _state,
    QuantizedKVCache: _quantized,
}
_KINDS: dict[type, str] = {
    **dict.fromkeys((LiveKVCache, KVCache, ConcatenateKVCache, QuantizedKVCache), "sequence"),
    **dict.fromkeys((LiveBatchKVCache, BatchKVCache), "sequence"),
    **dict.fromkeys((RotatingKVCache, ChunkedKVCache, BatchRotatingKVCache), "window"),
}


# -- a batch's -------------------------------------------------------------------------------------------------


def _shared_cells(rows: Sequence[list[int]], shorter: Sequence[int], cache: Any, shape: int, column_bytes: int) -> None:
    """Adds the cells of arrays `[rows, heads, columns, width]`; a column is of all rows."""
    if not column_bytes:
        for row in rows:
            row += (shape, 0, 0, 0)
        return
    allocated = cache.keys.nbytes + cache.values.nbytes
    columns = cache._offset if type(cache) is BatchRotatingKVCache else cache._idx
    capacity = allocated // column_bytes
    if len(rows) == 1:
        tokens = columns if columns < capacity else capacity
        rows[0].extend((shape, allocated, column_bytes * tokens, tokens))
        return
    # The arrays' first axis has a slice for each row, so it divides.
    held, token_bytes = allocated // len(rows), column_bytes // len(rows)
    for row, less in zip(rows, shorter, strict=True):
        if less == UNKNOWN:
            row.extend((shape, held, UNKNOWN, UNKNOWN))
        else:
            tokens = min(columns - less, capacity)
            row.extend((shape, held, token_bytes * tokens, tokens))
