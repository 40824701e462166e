"""Full-attention KV caches with head-room: they enter a batch, stay in it and leave it without being copied.

mlx-lm's own copy all of a request's KV when it is merged into a batch, when the batch is filtered to the rows that it
has, when the request is taken out again, and at every 256th token. These are the same caches with the same arithmetic;
only who owns the memory, and how much of it there is, differs. What has to be copied is counted, and copied one layer
after another: left to MLX, the old and the new arrays of all layers would be there at once.
"""

import threading
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache

from hwledger_omlx.hooks.layer_caches import transients
from hwledger_omlx.hooks.layer_caches.arrays import ArraySpec, dtype_name, hollow
from hwledger_omlx.hooks.layer_caches.rows import RowsKVCache, rows_of

_STEP_TOKENS = 256


class CopyCounter:
    """Bytes of KV that live caches copied, for whatever reason, since the process began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nbytes = 0

    def add(self, *arrays: Any) -> None:
        """Counts arrays that were copied whole."""
        with self._lock:
            self._nbytes += sum(int(array.nbytes) for array in arrays)

    @property
    def nbytes(self) -> int:
        """Bytes copied so far."""
        return self._nbytes


copied = CopyCounter()


def roomy(tokens: int) -> int:
    """Tokens to allocate for a cache that holds `tokens` and will hold more: an eighth more, in steps of 256."""
    wanted = tokens + max(_STEP_TOKENS, tokens // 8)
    return -(-wanted // _STEP_TOKENS) * _STEP_TOKENS


class LiveKVCache(KVCache):  # type: ignore[misc]
    """`KVCache` of one request.

    Args:
        reserve_tokens: tokens to allocate as long as they do; 0 where nothing is known of what will come.
    """

    def __init__(self, reserve_tokens: int = 0) -> None:
        super().__init__()
        self.reserve_tokens = reserve_tokens

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Takes `[batch, heads, tokens, head_dim]` and returns all keys and values so far."""
        transients.layer_begins(keys)
        needed = self.offset + keys.shape[2]
        if self.keys is None or needed > self.keys.shape[2]:
            tokens = self.reserve_tokens if self.reserve_tokens >= needed else roomy(needed)
            _grow(self, keys, values, self.offset, tokens)
        return super().update_and_fetch(keys, values)  # type: ignore[no-any-return]

    def copy(self) -> "LiveKVCache":
        """The same tokens on the same memory; updating either makes MLX copy it."""
        cache = LiveKVCache(self.reserve_tokens)
        cache.keys, cache.values, cache.offset = self.keys, self.values, self.offset
        return cache

    @classmethod
    def merge(cls, caches: list[Any]) -> Any:
        """A batch of these; of a single one, on its own memory. With others among them, a `RowsKVCache`."""
        if not all(isinstance(cache, LiveKVCache) for cache in caches):
            return RowsKVCache(caches)
        if any(cache.keys is None for cache in caches):
            batch = LiveBatchKVCache.merge(caches)
            # mlx-lm names its own class there, whatever it was called on.
            batch.__class__ = LiveBatchKVCache
            return batch
        if len(caches) == 1:
            return LiveBatchKVCache.adopt(caches[0])
        return LiveBatchKVCache.joined(caches)


class LiveBatchKVCache(BatchKVCache):  # type: ignore[misc]
    """`BatchKVCache` of requests whose caches are `LiveKVCache`s."""

    @classmethod
    def adopt(cls, cache: LiveKVCache) -> "LiveBatchKVCache":
        """A batch of one row on the memory of `cache`, which has none after."""
        batch = cls([0])
        batch.keys, batch.values = cache.keys, cache.values
        batch.offset = mx.array([cache.offset])
        batch._idx = cache.offset
        # Whoever else knew the arrays would have MLX copy them at the next token.
        cache.keys = cache.values = None
        return batch

    @classmethod
    def joined(cls, caches: list[LiveKVCache]) -> "LiveBatchKVCache":
        """A batch of copies of these, as roomy as the roomiest of them. They have no memory after."""
        longest = max(cache.offset for cache in caches)
        tokens = max(longest, *(cache.keys.shape[2] for cache in caches))

        def padded(array: Any, left: int) -> Any:
            kept = array[..., : tokens - left, :]
            return mx.pad(kept, [(0, 0), (0, 0), (left, tokens - left - kept.shape[2]), (0, 0)])

        padding = [longest - cache.offset for cache in caches]
        batch = cls(padding)
        batch.keys = mx.concatenate([padded(cache.keys, left) for cache, left in zip(caches, padding, strict=True)])
        batch.values = mx.concatenate([padded(cache.values, left) for cache, left in zip(caches, padding, strict=True)])
        batch.offset = mx.array([cache.offset for cache in caches])
        batch._idx = longest
        _copy_now(batch)
        for cache in caches:
            cache.keys = cache.values = None
        return batch

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Takes `[batch, heads, tokens, head_dim]` and returns all keys and values so far, left-padded."""
        transients.layer_begins(keys, 0 if self.keys is None else self.keys.nbytes + self.values.nbytes)
        needed = self._idx + keys.shape[2]
        if self.keys is not None and needed > self.keys.shape[2]:
            _grow(self, keys, values, self._idx, roomy(needed))
        return super().update_and_fetch(keys, values)  # type: ignore[no-any-return]

    def filter(self, batch_indices: Any) -> None:
        """Keeps these rows; nothing happens where they are all of them, in their order."""
        rows = self.left_padding.shape[0]
        kept = batch_indices if isinstance(batch_indices, list) else batch_indices.tolist()
        if kept == list(range(rows)):
            return
        super().filter(batch_indices)
        _copy_now(self)

    def extend(self, other: Any) -> None:
        """Adds the rows of `other`. Where these are at other formats, the batch becomes a `RowsKVCache`."""
        if isinstance(other, RowsKVCache):
            rows = rows_of(self)
            # Who holds the batch goes on holding it, so it is the object that changes, not the name.
            self.__dict__.clear()
            self.__class__ = RowsKVCache
            self.__init__([*rows, *other.rows])  # type: ignore[misc]
            return
        super().extend(other)
        _copy_now(self)
        # They live on in this batch.
        other.keys = other.values = None

    def extract(self, idx: int) -> LiveKVCache:
        """Row `idx` as a cache of its own, on the batch's memory. Updating either makes MLX copy it."""
        padding = int(self.left_padding[idx].item())
        cache = LiveKVCache()
        cache.keys = self.keys[idx : idx + 1, :, padding : self._idx]
        cache.values = self.values[idx : idx + 1, :, padding : self._idx]
        cache.offset = self._idx - padding
        return cache


def _grow(cache: Any, keys: Any, values: Any, used_tokens: int, tokens: int) -> None:
    """Gives `cache` arrays of `tokens` tokens, with its first `used_tokens` in them."""
    specs = [ArraySpec((*like.shape[:2], tokens, like.shape[3]), dtype_name(like.dtype)) for like in (keys, values)]
    new_keys, new_values = hollow(specs)
    if cache.keys is not None and used_tokens:
        new_keys[..., :used_tokens, :] = cache.keys[..., :used_tokens, :]
        new_values[..., :used_tokens, :] = cache.values[..., :used_tokens, :]
        copied.add(cache.keys, cache.values)
        mx.eval(new_keys, new_values)
    cache.keys, cache.values = new_keys, new_values


def _copy_now(cache: Any) -> None:
    if cache.keys is not None:
        mx.eval(cache.keys, cache.values)
        copied.add(cache.keys, cache.values)
