"""Keeps what is there for the moment only from piling up: decoded keys and values, and what the layers put out.

MLX hands work to a device well ahead of it and allocates as it does, so without a pause the decoded keys and values of
all layers are there at once (on an H200, 6.4 GB of them beside a cache of 1.9 GB), and so are the outputs of the layers
that a chunk of a prompt goes through (there, 2.3 to 2.9 GB of a model of 1.4 G parameters). A pause now and then, when
enough is under way, costs next to nothing, for that much takes a while to compute in any case.
"""

import threading
from typing import Any

import mlx.core as mx

_MOST_BYTES = 512 << 20
_STRETCH_TOKENS = 4096
"""Tokens times layers of a stretch at most, or one layer: two layers of a chunk of 2,048 tokens."""
_STRETCH_BYTES = 256 << 20
"""Bytes of a stretch of keys and values that a batch attends to, at most, or those of one layer."""


class _UnderWay(threading.local):
    nbytes = 0
    stretch = 0.0
    stretch_before: Any = None


_under_way = _UnderWay()


def expect(nbytes: int, depends_on: tuple[Any, ...]) -> None:
    """To be called before something of so many bytes is decoded.

    Args:
        nbytes: of what will be there until attention is done with it.
        depends_on: arrays that cannot be computed before all decoding so far has been made use of, such as the keys of
            the next layer. They are waited for where too much is under way.
    """
    if _under_way.nbytes and _under_way.nbytes + nbytes > _MOST_BYTES:
        mx.eval(depends_on)
        _under_way.nbytes = 0
    _under_way.nbytes += nbytes


def layer_begins(keys: Any, attended_nbytes: int = 0) -> None:
    """To be called in each layer with what it is about to add to its cache, `[batch, heads, tokens, head_dim]`.

    Hands the layers before to the device, a stretch of them at a time, and waits where it is two stretches behind: so
    it is never without work, and what two stretches put out is all that is there. Does nothing where MLX does not run
    far ahead.

    Args:
        keys: of the new tokens. A single one's outputs are too small to count.
        attended_nbytes: of keys and values that attention copies before it reads them, which on CUDA it does where
            they are a part of an array and are masked.
    """
    batch, _, tokens, _ = keys.shape
    share = attended_nbytes / _STRETCH_BYTES + (batch * tokens / _STRETCH_TOKENS if tokens > 1 else 0)
    if not share or not runs_far_ahead():
        return
    _under_way.stretch += share
    if _under_way.stretch + share <= 1:
        return
    # One number of its own memory: the keys themselves would be kept alive until the next prompt.
    stretch = keys[0, 0, -1, 0] + 0
    mx.async_eval(stretch)  # type: ignore[no-untyped-call]
    before, _under_way.stretch_before, _under_way.stretch = _under_way.stretch_before, stretch, 0.0
    if before is not None:
        mx.eval(before)


def runs_far_ahead() -> bool:
    """Whether MLX hands whole models to the device before that has computed their first layers.

    On CUDA a commit is 100 operations and ten are handed over ahead; on Metal it is so few that only a layer or two are
    (`Device` of `mlx/backend/metal/device.cpp`), and a CPU computes as it goes.
    """
    cuda = getattr(mx, "cuda", None)
    return cuda is not None and bool(cuda.is_available()) and mx.default_device() == mx.Device(mx.gpu)
