"""Has a CUDA device take over arrays that the host has just filled, all at once and ahead of their first use.

MLX's arrays on CUDA are managed memory: a page that the host wrote moves when a kernel first touches it, one fault at a
time. On an H200 that is 16 GB/s; asked for beforehand, the same pages come at 47 GB/s. Asking for each layer while the
next one is still being written is slower than either, since writing and moving pages hold each other up.

Function and types: CUDA Driver API, "Unified Addressing", `cuMemPrefetchAsync` (the first version of it, which every
driver since CUDA 8 exports under this name).
"""

import ctypes
import logging
from collections.abc import Iterable
from functools import cache
from typing import Any

import mlx.core as mx

_log = logging.getLogger("hwledger_omlx.cache")


def prefetch(arrays: Iterable[Any]) -> None:
    """Begins to move evaluated arrays to the device and returns. Does nothing where there is no CUDA device."""
    driver = _driver()
    if driver is None:
        return
    for array in arrays:
        view = memoryview(array)
        if view.nbytes:
            driver.prefetch(view)


class _Driver:
    """The part of libcuda that is needed, bound to the device that MLX uses."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._device = ctypes.c_int()
        self._context = ctypes.c_void_p()
        for failure in (
            library.cuInit(0),
            library.cuDeviceGet(ctypes.byref(self._device), 0),
            # The runtime that MLX was built with works in this context too.
            library.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), self._device),
        ):
            if failure:
                raise OSError(f"CUDA error {failure}")

    def prefetch(self, view: memoryview) -> None:
        self._library.cuCtxSetCurrent(self._context)
        # What it returns says only whether it will be faster.
        self._library.cuMemPrefetchAsync(
            ctypes.c_uint64(_address(view)), ctypes.c_size_t(view.nbytes), self._device, ctypes.c_void_p(0)
        )


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


@cache
def _driver() -> _Driver | None:
    if mx.default_device() != mx.Device(mx.gpu) or not _is_cuda():
        return None
    try:
        return _Driver(ctypes.CDLL("libcuda.so.1"))
    except OSError as error:
        _log.warning("restored KV moves to the GPU at its first use, which takes longer: %s", error)
        return None


def _is_cuda() -> bool:
    cuda = getattr(mx, "cuda", None)
    return bool(cuda is not None and cuda.is_available())
