"""The codecs that `bench kv` compares, behind one face: ours at rest (Rust) and live (MLX), MLX's and mlx-vlm's own."""

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from hwledger_omlx import _native
from hwledger_omlx.hooks.layer_caches import formats

NATIVE, LIVE, MLX, TURBOQUANT = "hwledger-omlx", "live caches", "MLX", "mlx-vlm TurboQuant"


class Codec(Protocol):
    """What is compared. Arrays are evaluated MLX arrays `[1, rows, tokens, width]` of one type."""

    def encode(self, array: Any) -> Any:
        """What it keeps, all of it computed."""

    def decode(self, kept: Any) -> Any:
        """The array again, all of it computed; in the type that the codec gives."""

    def nbytes(self, kept: Any) -> int:
        """Bytes of what it keeps."""


class Native:
    """The Rust codec of a name, on arrays of one shape; into the same memory each time, as the store does."""

    def __init__(self, name: str, like: Any) -> None:
        _, rows, tokens, width = like.shape
        self._codec = _native.Codec(name, str(like.dtype).removeprefix("mlx.core."), width)
        self._room = bytearray(self._codec.encoded_nbytes(rows, tokens))
        self._back: Any = mx.zeros(like.shape, like.dtype)
        mx.eval(self._back)

    def encode(self, array: Any) -> Any:
        """A view of memory that the next call writes again."""
        return memoryview(self._room)[: self._codec.encode(array, self._room)]

    def decode(self, kept: Any) -> Any:  # noqa: D102
        self._codec.decode(kept, self._back)
        return self._back

    def nbytes(self, kept: Any) -> int:  # noqa: D102
        return len(kept)


class Live:
    """The format of that name as running caches have it: MLX's operations. `affine` is MLX's own codec."""

    def __init__(self, name: str) -> None:
        self._format = formats.parse(name)
        self._like: Any = None

    def encode(self, array: Any) -> list[Any]:  # noqa: D102
        self._like = formats.spec_of(array)
        components = self._format.encode(array)
        mx.eval(components)
        return components

    def decode(self, kept: Sequence[Any]) -> Any:  # noqa: D102
        back = self._format.decode(kept, self._like)
        mx.eval(back)
        return back

    def nbytes(self, kept: Sequence[Any]) -> int:  # noqa: D102
        return sum(int(array.nbytes) for array in kept)


class TurboQuant:
    """The codec that mlx-vlm's `TurboQuantKVCache` makes for the keys, or for the values, at `bits`."""

    def __init__(self, bits: float, like: Any, part: str = "keys") -> None:
        # Imported here, and only where it is measured: all of mlx-vlm comes with it.
        cache = importlib.import_module("mlx_vlm.turboquant").TurboQuantKVCache(bits=bits)
        cache._ensure_codecs(like, like)
        self._codec = cache.key_codec if part == "keys" else cache.value_codec

    @property
    def bits(self) -> int:
        """Of a number, really: at "3.5" the keys have 3 and the values 4."""
        return int(self._codec.bits)

    def encode(self, array: Any) -> Any:  # noqa: D102
        state = self._codec.quantize(array)
        mx.eval(state)
        return state

    def decode(self, kept: Any) -> Any:  # noqa: D102
        back = self._codec.dequantize(kept)
        mx.eval(back)
        return back

    def nbytes(self, kept: Any) -> int:  # noqa: D102
        return sum(int(array.nbytes) for array in kept)


class BothHalves:
    """Keys by one codec and values by another: the first half of the rows, and the second."""

    def __init__(self, keys: Codec, values: Codec) -> None:
        self._codecs = (keys, values)

    def encode(self, array: Any) -> Any:  # noqa: D102
        return [codec.encode(half) for codec, half in zip(self._codecs, _halves(array), strict=True)]

    def decode(self, kept: Any) -> Any:  # noqa: D102
        return [codec.decode(half) for codec, half in zip(self._codecs, kept, strict=True)]

    def nbytes(self, kept: Any) -> int:  # noqa: D102
        return sum(codec.nbytes(half) for codec, half in zip(self._codecs, kept, strict=True))


def made(kind: str, name: str, like: Any) -> Codec:
    """A codec by the name that policies give it (`affine:4:64`), for arrays like this one."""
    scheme, *numbers = name.split(":")
    if kind == NATIVE:
        return Native(name, like)
    if kind in (LIVE, MLX):
        return Live(name)
    if scheme != "rotated":
        raise ValueError(f"{kind} has nothing like {name}")
    bits = float(numbers[0])
    if bits == int(bits):
        return TurboQuant(bits, like)
    half, _ = _halves(like)
    return BothHalves(TurboQuant(bits, half), TurboQuant(bits, half, "values"))


def as_numpy(array: Any) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """The numbers in float32."""
    return np.array(array.astype(mx.float32))


def _halves(array: Any) -> tuple[Any, Any]:
    rows = array.shape[1] // 2
    return array[:, :rows], array[:, rows:]
