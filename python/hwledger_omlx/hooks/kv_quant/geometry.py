"""What a policy must know of a model: each layer's caches, with heads, widths and dtype. Asked of the model itself."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import CacheList, KVCache, RotatingKVCache, make_prompt_cache

from hwledger_omlx.hooks.layer_caches.arrays import dtype_name
from hwledger_omlx.hooks.layer_caches.dial import Path


@dataclass(frozen=True, slots=True)
class Geometry:
    """The caches of a model's layers."""

    text: str
    """As `KvPolicy.resolve` takes it: JSON."""
    paths: tuple[tuple[Path, ...], ...]
    """Places of each layer's caches, in the order in which `text` names them."""


def measure(model: Any) -> Geometry:
    """Runs the model over one token and looks at what its caches hold then. On the thread that evaluates."""
    caches = make_prompt_cache(model)
    model(mx.array([[0]]), cache=caches)
    mx.eval([cache.state for cache in caches])
    found = [_below(cache, (layer,)) for layer, cache in enumerate(caches)]
    layers = [{"caches": [_described(cache) for _, cache in layer]} for layer in found]
    return Geometry(json.dumps({"layers": layers}), tuple(tuple(path for path, _ in layer) for layer in found))


def _below(cache: Any, path: Path) -> Sequence[tuple[Path, Any]]:
    if not isinstance(cache, CacheList):
        return [(path, cache)]
    return [leaf for place, each in enumerate(cache.caches) for leaf in _below(each, (*path, place))]


def _described(cache: Any) -> dict[str, Any]:
    if type(cache) not in (KVCache, RotatingKVCache) or cache.keys is None:
        return {"kind": "state"}
    is_window = isinstance(cache, RotatingKVCache)
    return {
        "kind": "window" if is_window else "sequence",
        "k": {"heads": cache.keys.shape[1], "width": cache.keys.shape[3]},
        "v": {"heads": cache.values.shape[1], "width": cache.values.shape[3]},
        "element": dtype_name(cache.keys.dtype),
        "window_tokens": int(cache.max_size) if is_window else None,
    }
