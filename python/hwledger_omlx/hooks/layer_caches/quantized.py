"""The KV cache of one request in one layer, keys and values each at a format of their own."""

from typing import Any

from mlx_lm.models.cache import _BaseCache, create_attention_mask

from hwledger_omlx.hooks.layer_caches.fetched import Fetched
from hwledger_omlx.hooks.layer_caches.held import HeldTokens
from hwledger_omlx.hooks.layer_caches.rows import RowsKVCache


class QuantizedKVCache(_BaseCache):  # type: ignore[misc]
    """Does what `KVCache` does, in fewer bytes.

    What `update_and_fetch` returns is decoded only if somebody evaluates it: attention that knows the formats (see
    `attention`) takes the encoded arrays, and any other gets keys and values as it always did. Either way the attention
    sees what is held, also of the newest tokens, so an answer does not depend on how its prompt was cut into chunks,
    nor on what of it was restored.
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
        self.held_keys.append(keys)
        self.held_values.append(values)
        return self.fetched.are(self.held_keys.dense(), self.held_values.dense())

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
