"""Whether a model runs at all with its keys and values at the formats of a dial: tried, for models differ endlessly."""

from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from hwledger_omlx.hooks.layer_caches.building import build
from hwledger_omlx.hooks.layer_caches.dial import Dial


def run(model: Any, dial: Dial) -> None:
    """Prefills two tokens and decodes two in a batch of two rows. On the thread that evaluates.

    Raises:
        Exception: whatever the model raises where it takes its caches for others than ours.
    """
    rows = [build(dial, make_prompt_cache(model)) for _ in range(2)]
    for caches in rows:
        model(mx.array([[0, 0]]), cache=caches)
    batch = [first.merge([first, second]) for first, second in zip(*rows, strict=True)]
    for _ in range(2):
        mx.eval(model(mx.array([[0], [0]]), cache=batch), [cache.state for cache in batch])
