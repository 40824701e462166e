"""Has a model's layers attend through ours where a cache is ours.

mlx-lm's models import the attention function by name, so it is replaced in the modules that a model is made of, and
only there. What is not ours goes to the function that was there.
"""

import sys
from types import ModuleType
from typing import Any

import wrapt

from hwledger_omlx.hooks.layer_caches import attention

_NAME = "scaled_dot_product_attention"


def attend_through_ours(model: Any) -> int:
    """Replaces the attention function in each module of `model`; returns in how many it has been."""
    modules = {sys.modules[type(layer).__module__] for _, layer in model.named_modules()}
    return sum(_replace(module) for module in modules)


def _replace(module: ModuleType) -> bool:
    present = getattr(module, _NAME, None)
    if present is None:
        return False
    if not isinstance(present, wrapt.FunctionWrapper):
        setattr(module, _NAME, wrapt.FunctionWrapper(present, _attend))
    return True


def _attend(wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    queries, keys, values, cache = _taken(*args, **kwargs)
    if not attention.takes(cache, keys, values):
        return wrapped(*args, **kwargs)
    return attention.attend(cache, queries, keys, values, **_rest(*args, **kwargs))


def _taken(queries: Any, keys: Any, values: Any, cache: Any = None, *_: Any, **__: Any) -> tuple[Any, ...]:
    return queries, keys, values, cache


def _rest(
    queries: Any, keys: Any, values: Any, cache: Any = None, scale: float = 1.0, mask: Any = None, sinks: Any = None
) -> dict[str, Any]:
    return {"scale": scale, "mask": mask, "sinks": sinks}
