"""The KV cache of one request in one layer, keys and values each at a format of their own."""

from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import _BaseCache, create_attention_mask

from hwledger_omlx.hooks.layer_caches import transients
from hwledger_omlx.hooks.layer_caches.fetched import Fetched
from hwledger_omlx.hooks.layer_caches.formats import Affine, Channel
from hwledger_omlx.hooks.layer_caches.held import HeldTokens
from hwledger_omlx.hooks.layer_caches.rows import RowsKVCache

_QUERIES_AT_MOST = 8
"""More of them at once are better multiplied with decoded keys."""


def _multiplies_encoded() -> bool:
    """Whether this device is quicker with encoded factors.

    A CPU is not: over 4,096 tokens of 8 heads MLX 0.32 takes 0.19 s against 0.08 s for decoding and multiplying. On
    CUDA it has no kernel for these shapes ("No implementation for problem shape: 2x2049x128x8").
    """
    return bool(mx.metal.is_available()) and mx.default_device() == mx.Device(mx.gpu)


class QuantizedKVCache(_BaseCache):  # type: ignore[misc]
    """Does what `KVCache` does, in fewer bytes.

    What `update_and_fetch` returns is decoded only if somebody evaluates it: attention that knows the formats (see
    `attention`) takes the encoded arrays, and any other gets keys and values as it always did. Either way the attention
    sees what is held, also of the newest tokens. So an answer does not depend on how its prompt was cut into chunks,
    nor on what of it was restored, unless tokens wait in full to be encoded: the latest ones of a policy with `recent`,
    and those behind the last whole group of `channel`.
    """

    def __init__(self, keys: HeldTokens, values: HeldTokens) -> None:
        self.held_keys = keys
        self.held_values = values
        self.fetched = Fetched()

    @property
    def offset(self) -> int:
        """Tokens held."""
        return self.held_keys.tokens

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Takes `[1, heads, tokens, head_dim]` and returns all keys and values so far."""
        transients.layer_begins(keys)
        if not self.attends_encoded(keys.shape[2]):
            transients.expect(self.held_keys.decoded_nbytes + self.held_values.decoded_nbytes, (keys, values))
        self.held_keys.append(keys)
        self.held_values.append(values)
        return self.fetched.are(self.held_keys.dense(), self.held_values.dense())

    def attends_encoded(self, queries: int) -> bool:
        """Whether so many queries are multiplied with the encoded arrays, which pays for the newest tokens on a GPU."""
        return queries <= _QUERIES_AT_MOST and _multiplies_encoded() and self._has_products

    @property
    def _has_products(self) -> bool:
        return any(isinstance(each.format, Affine | Channel) for each in (self.held_keys, self.held_values))

    @property
    def keys(self) -> Any:
        """An array that holds keys, for models that tie one cache's evaluation to another's by `mx.depends`, and put
        back what that gives them. None without tokens."""
        return self.held_keys.newest

    @keys.setter
    def keys(self, same: Any) -> None:
        self.held_keys.newest = same

    @property
    def values(self) -> Any:
        """As `keys`."""
        return self.held_values.newest

    @values.setter
    def values(self, same: Any) -> None:
        self.held_values.newest = same

    @property
    def state(self) -> tuple[Any, ...]:
        """All arrays, for `mx.eval`."""
        held = (self.held_keys, self.held_values)
        return tuple(array for each in held for array in (each.front, *each.encoded, each.tail) if array is not None)

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self.held_keys.nbytes + self.held_values.nbytes

    def size(self) -> int:
        """Tokens held."""
        return self.offset

    def empty(self) -> bool:
        """Whether there is no token."""
        return self.offset == 0

    def is_trimmable(self) -> bool:
        """Yes."""
        return True

    def trim(self, n: int) -> int:
        """Drops the last `n` tokens, or all; returns how many."""
        dropped = min(self.offset, n)
        if dropped:
            self.held_keys.trim(dropped)
            self.held_values.trim(dropped)
        return dropped

    def make_mask(self, *args: Any, **kwargs: Any) -> Any:
        """Of the next tokens, as `KVCache` makes it."""
        return create_attention_mask(*args, offset=self.offset, **kwargs)

    def copy(self) -> "QuantizedKVCache":
        """The same tokens on the same memory; updating either makes MLX copy it."""
        return QuantizedKVCache(self.held_keys.copy(), self.held_values.copy())

    @classmethod
    def merge(cls, caches: list[Any]) -> RowsKVCache:
        """A batch of these."""
        return RowsKVCache(caches)
