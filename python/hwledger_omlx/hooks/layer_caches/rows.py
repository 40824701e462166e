"""A batch whose rows stay where they are: each request keeps its own cache, at its own formats and its own length.

Nothing is padded and nothing is copied when a request joins the batch or leaves it, and requests of different policies
run side by side. What it costs is one call of attention a row.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import _BaseCache

from hwledger_omlx.hooks.layer_caches.fetched import Fetched


class RowsKVCache(_BaseCache):  # type: ignore[misc]
    """Does what `BatchKVCache` does, for `LiveKVCache`s and `QuantizedKVCache`s of one layer.

    Shapes are those of a left-padded batch, so that one mask serves layers of this class and others.
    """

    def __init__(self, rows: Sequence[Any]) -> None:
        self.rows = list(rows)
        self.offset = mx.array([row.offset for row in self.rows])
        self.fetched = Fetched()
        self._right_padding: list[int] | None = None

    @property
    def _idx(self) -> int:
        return max((int(row.offset) for row in self.rows), default=0)

    @property
    def left_padding(self) -> Any:
        """Columns before each row's first token."""
        longest = self._idx
        return mx.array([longest - row.offset for row in self.rows])

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Takes `[batch, heads, tokens, head_dim]` and returns all keys and values so far, left-padded.

        The padding is computed only if somebody evaluates it; see `attention`.
        """
        fetched = [
            row.update_and_fetch(keys[index : index + 1], values[index : index + 1])
            for index, row in enumerate(self.rows)
        ]
        self.offset = self.offset + keys.shape[2]
        longest = self._idx
        return self.fetched.are(*(_stacked(arrays, longest) for arrays in zip(*fetched, strict=True)))

    def make_mask(self, N: int, return_array: bool = False, **kwargs: Any) -> Any:  # noqa: N803
        """Of the next `N` tokens, as `BatchKVCache` makes it; None where every token sees all columns."""
        if len(self.rows) == 1 and N == 1 and not return_array and kwargs.get("window_size") is None:
            return None
        return create_causal_mask(N, offset=self._idx, left_padding=self.left_padding, **kwargs)

    def prepare(self, *, lengths: Any = None, right_padding: Sequence[int] | None = None) -> None:
        """Says how many of the next tokens of each row are padding, behind its own."""
        self._right_padding = list(right_padding) if right_padding is not None and max(right_padding) > 0 else None

    def finalize(self) -> None:
        """Drops the padding that `prepare` spoke of."""
        if self._right_padding is not None:
            for row, tokens in zip(self.rows, self._right_padding, strict=True):
                row.trim(tokens)
            self.offset = mx.array([row.offset for row in self.rows])
            self._right_padding = None

    def filter(self, batch_indices: Any) -> None:
        """Keeps these rows."""
        kept = batch_indices if isinstance(batch_indices, list) else batch_indices.tolist()
        self.rows = [self.rows[index] for index in kept]
        self.offset = self.offset[mx.array(kept)] if kept else mx.array([], dtype=self.offset.dtype)

    def extend(self, other: Any) -> None:
        """Adds the rows of another batch, of this class or not."""
        more = other.rows if isinstance(other, RowsKVCache) else rows_of(other)
        self.rows += more
        self.offset = mx.concatenate([self.offset, mx.array([row.offset for row in more])])

    def extract(self, idx: int) -> Any:
        """Row `idx`, on the batch's memory. Updating either makes MLX copy it."""
        return self.rows[idx].copy()

    def trim(self, n: int) -> int:
        """Drops the last `n` tokens of each row; returns how many."""
        dropped = min(n, *(int(row.offset) for row in self.rows))
        for row in self.rows:
            row.trim(dropped)
        self.offset = self.offset - dropped
        return dropped

    def is_trimmable(self) -> bool:
        """Yes."""
        return True

    def size(self) -> int:
        """Tokens of the longest row."""
        return self._idx

    def empty(self) -> bool:
        """Whether there is no token."""
        return all(row.empty() for row in self.rows)

    @property
    def keys(self) -> Any:
        """As `QuantizedKVCache.keys`: evaluated, so are those of every row."""
        first, *others = [row.keys for row in self.rows]
        return mx.depends(first, others) if others else first

    @keys.setter
    def keys(self, same: Any) -> None:
        self.rows[0].keys = same

    @property
    def values(self) -> Any:
        """As `keys`."""
        first, *others = [row.values for row in self.rows]
        return mx.depends(first, others) if others else first

    @values.setter
    def values(self, same: Any) -> None:
        self.rows[0].values = same

    @property
    def state(self) -> tuple[Any, ...]:
        """All arrays, for `mx.eval`."""
        return (*(row.state for row in self.rows if not row.empty()), self.offset)

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(int(row.nbytes) for row in self.rows)


def rows_of(batch: Any) -> list[Any]:
    """The rows of a batch of another class, each a cache of its own on the batch's memory."""
    return [batch.extract(index) for index in range(batch.left_padding.shape[0])]


def _stacked(arrays: Sequence[Any], tokens: int) -> Any:
    if len(arrays) == 1:
        return arrays[0]
    return mx.concatenate([mx.pad(array, [(0, 0), (0, 0), (tokens - array.shape[2], 0), (0, 0)]) for array in arrays])
