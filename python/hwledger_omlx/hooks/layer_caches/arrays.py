"""MLX arrays whose memory nobody has touched yet, for Rust to read KV straight into. Knows nothing of caches.

MLX has no `empty`. Its loader, though, allocates an array and has a file fill it; a file that fills nothing leaves the
memory as the allocator gave it: no page is touched, so restoring into it is the only write, and `madvise` still helps.
"""

import functools
import io
import json
import math
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx

# MLX's name of a dtype, as in `str(array.dtype)`, and safetensors' name of it.
_SAFETENSORS_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "complex64": "C64",
}


_GPU_PAGE_BYTES = 16384
"""What MLX's allocators round up to: `page_size` in mlx/backend/cuda/allocator.cpp, `vm_page_size` on Metal."""

_loading = threading.Lock()


def _never_while_loading(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        with _loading:
            return function(*args, **kwargs)

    return guarded


# Where it runs on a CPU, MLX 0.32 waits in these for the work of every thread without letting go of the interpreter. A
# load from a Python file needs the interpreter to end: two engines of one process would wait for each other for ever.
for _name in ("clear_cache", "set_cache_limit"):
    setattr(mx, _name, _never_while_loading(getattr(mx, _name)))


def allocated_nbytes(nbytes: int) -> int:
    """What MLX takes from the device for an array of so many bytes, a page or more."""
    if mx.default_device() == mx.Device(mx.cpu):
        return nbytes
    return -(-nbytes // _GPU_PAGE_BYTES) * _GPU_PAGE_BYTES


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Shape and dtype of an array."""

    shape: tuple[int, ...]
    dtype: str
    """MLX's name of it, without `mlx.core.`."""

    @classmethod
    def of(cls, array: Any) -> "ArraySpec":
        """That of an MLX array."""
        return cls(tuple(array.shape), dtype_name(array.dtype))

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * self.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        size: int = getattr(mx, "bool_" if self.dtype == "bool" else self.dtype).size
        return size


def dtype_name(dtype: Any) -> str:
    """`bfloat16` of `mlx.core.bfloat16`."""
    return str(dtype).removeprefix("mlx.core.")


def hollow(specs: Sequence[ArraySpec]) -> list[Any]:
    """Evaluated arrays of these shapes, in this order, with whatever their memory held before.

    Must be called on a thread that may evaluate. The caller has to write every element that will be read.
    """
    filled = [index for index, spec in enumerate(specs) if spec.nbytes]
    made: list[Any] = [None if spec.nbytes else _empty(spec) for spec in specs]
    if filled:
        file = _HollowFile([specs[index] for index in filled])
        with _loading:
            loaded: Any = mx.load(cast("Any", file), format="safetensors", stream=mx.cpu)
            for place, index in enumerate(filled):
                made[index] = loaded[str(place)]
            mx.eval(made)
    return made


def view(array: Any) -> Any:
    """Another array on the same memory, whose contents stay when the first one is updated in place."""
    return array[...]


def _empty(spec: ArraySpec) -> Any:
    return mx.zeros(spec.shape, getattr(mx, spec.dtype))


class _HollowFile(io.RawIOBase):
    """A safetensors file that has a header and claims to have data. Format: the safetensors project's README."""

    def __init__(self, specs: Sequence[ArraySpec]) -> None:
        entries: dict[str, object] = {}
        end = 0
        for place, spec in enumerate(specs):
            begin, end = end, end + spec.nbytes
            entries[str(place)] = {
                "dtype": _SAFETENSORS_NAMES[spec.dtype],
                "shape": spec.shape,
                "data_offsets": [begin, end],
            }
        header = json.dumps(entries).encode()
        self._header = struct.pack("<Q", len(header)) + header
        self._size = len(self._header) + end
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        part = self._header[self._position : self._position + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(buffer)
        return len(buffer)
