"""How far attention over what a layer's cache holds lies from attention over the same keys and values in full.

The layer's keys and values are kept both ways for the time, and each of its queries is answered twice.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import CacheList

from hwledger_omlx.hooks.layer_caches.held import HeldTokens
from hwledger_omlx.hooks.layer_caches.live import LiveKVCache
from hwledger_omlx.hooks.layer_caches.quantized import QuantizedKVCache

_NAME = "scaled_dot_product_attention"


class TwinKVCache(QuantizedKVCache):
    """A quantized cache that keeps its tokens in full too.

    Args:
        keys: how they are held.
        values: likewise.
        element: MLX's name of the type in which they are held, whatever the model computes in; None for the model's.
    """

    def __init__(self, keys: HeldTokens, values: HeldTokens, element: str | None = None) -> None:
        super().__init__(keys, values)
        self.full = LiveKVCache(keys.reserve_tokens)
        self.fetched_full: tuple[Any, Any] = (None, None)
        self._element = element

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Takes `[1, heads, tokens, head_dim]` and returns all keys and values so far, as they are held."""
        self.fetched_full = self.full.update_and_fetch(keys, values)
        if self._element is None:
            return super().update_and_fetch(keys, values)
        held_as = getattr(mx, self._element)
        held = super().update_and_fetch(keys.astype(held_as), values.astype(held_as))
        return self.fetched.are(*(array.astype(keys.dtype) for array in held))


class AttentionError:
    """The relative error of the attention that was watched: root of squared error over squared output."""

    def __init__(self) -> None:
        self._sums: list[tuple[Any, Any]] = []

    def add(self, answer: Any, exact: Any) -> None:
        """One output of attention, and what it is where nothing is quantized."""
        exact = exact.astype(mx.float32)
        self._sums.append((mx.square(answer.astype(mx.float32) - exact).sum(), mx.square(exact).sum()))

    @property
    def is_watched(self) -> bool:
        """Whether any attention was seen."""
        return bool(self._sums)

    @property
    def value(self) -> float:
        """The error over all that was seen."""
        wrong, whole = (sum(float(pair[side].item()) for pair in self._sums) for side in (0, 1))
        return math.sqrt(wrong / whole) if whole else 0.0


def twins_of(caches: Sequence[Any]) -> list[TwinKVCache]:
    """The twin caches among a model's layer caches."""
    found: list[TwinKVCache] = []
    for cache in caches:
        if isinstance(cache, CacheList):
            found += twins_of(cache.caches)
        elif isinstance(cache, TwinKVCache):
            found.append(cache)
    return found


@contextmanager
def watched(model: Any) -> Iterator[AttentionError]:
    """Compares every attention of `model` over a `TwinKVCache` with the exact one, until it is left."""
    error = AttentionError()
    modules = {sys.modules[type(layer).__module__] for _, layer in model.named_modules()}
    replaced = [(module, getattr(module, _NAME)) for module in modules if hasattr(module, _NAME)]

    def watching(present: Any) -> Any:
        def attend(queries: Any, keys: Any, values: Any, cache: Any = None, *args: Any, **kwargs: Any) -> Any:
            answer = present(queries, keys, values, cache, *args, **kwargs)
            if isinstance(cache, TwinKVCache) and cache.fetched.match(keys, values):
                error.add(answer, present(queries, *cache.fetched_full, cache.full, *args, **kwargs))
            return answer

        return attend

    for module, present in replaced:
        setattr(module, _NAME, watching(present))
    try:
        yield error
    finally:
        for module, present in replaced:
            setattr(module, _NAME, present)
