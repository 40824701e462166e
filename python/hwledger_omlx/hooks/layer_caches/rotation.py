"""Vectors at few bits a number: a random rotation, the norm, and a codebook that is best for what a rotation leaves.

After a random rotation the numbers of a vector are close to independent and normal, whatever they were before, so one
codebook serves all of them: that of Lloyd and Max for the normal distribution (TurboQuant, arXiv 2504.19874). The
rotation is a Hadamard transform behind random signs (QuaRot, arXiv 2404.00456).
"""

import math
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

_SIGNS_SEED = 2504_19874
_WORD_BITS = 32
_MOST_NORM = 65504.0
"""The largest finite float16."""


def widths_taken(width: int) -> bool:
    """Whether vectors of that width can be rotated."""
    return width >= _WORD_BITS and width & (width - 1) == 0


def code_words(width: int, bits: float) -> int:
    """32-bit words of one vector's codes."""
    return math.ceil(width * bits / _WORD_BITS)


def encode(dense: Any, bits: float) -> tuple[Any, Any]:
    """Codes `[..., words]` (uint32) and norms `[..., 1]` (float16) of vectors `[..., width]`."""
    width = dense.shape[-1]
    rotated = mx.hadamard_transform(dense.astype(mx.float32) * _signs(width))
    norms = mx.linalg.norm(rotated, axis=-1, keepdims=True)
    unit = rotated * (math.sqrt(width) / mx.maximum(norms, 1e-30))
    pieces = [
        _pack(_nearest(unit[..., start:stop], piece_bits), piece_bits)
        for start, stop, piece_bits in _pieces(width, bits)
    ]
    return mx.concatenate(pieces, axis=-1), mx.minimum(norms, _MOST_NORM).astype(mx.float16)


def decode(codes: Any, norms: Any, width: int, bits: float) -> Any:
    """Vectors `[..., width]` (float32) of codes and norms."""
    unit = []
    first_word = 0
    for start, stop, piece_bits in _pieces(width, bits):
        words = code_words(stop - start, piece_bits)
        piece = codes[..., first_word : first_word + words]
        unit.append(mx.take(_levels(piece_bits), _unpack(piece, stop - start, piece_bits)))
        first_word += words
    rotated = mx.concatenate(unit, axis=-1) * (norms.astype(mx.float32) / math.sqrt(width))
    return mx.hadamard_transform(rotated) * _signs(width)


@cache
def codebook(bits: int) -> NDArray[np.float64]:
    """The `2**bits` levels of least mean squared error for the standard normal distribution, rising.

    Lloyd's iteration, from the quantiles of the density to the power of a third (Panter and Dite 1951): each level
    becomes the mean of what is nearest to it, until none moves.
    """
    grid = np.linspace(-8.0, 8.0, 1 << 18)
    density = np.exp(-grid * grid / 2)
    mass = np.concatenate([[0.0], np.cumsum(density)])
    moment = np.concatenate([[0.0], np.cumsum(density * grid)])
    spread = np.cumsum(density ** (1 / 3))
    count = 1 << bits
    levels = np.interp((np.arange(count) + 0.5) / count, spread / spread[-1], grid)
    for _ in range(20_000):
        edges = np.searchsorted(grid, (levels[1:] + levels[:-1]) / 2)
        bounds = np.concatenate([[0], edges, [len(grid)]])
        centred = np.diff(moment[bounds]) / np.maximum(np.diff(mass[bounds]), 1e-300)
        if np.abs(centred - levels).max() < 1e-7:
            break
        levels = centred
    return (levels - levels[::-1]) / 2  # exactly odd, as the density is even


def _pieces(width: int, bits: float) -> list[tuple[int, int, int]]:
    """`(start, stop, bits)`: with half a bit, half of the numbers have one bit more."""
    low, high = math.floor(bits), math.ceil(bits)
    return [(0, width, low)] if low == high else [(0, width // 2, high), (width // 2, width, low)]


def _nearest(unit: Any, bits: int) -> Any:
    """The index of the nearest level, by bisection."""
    levels = codebook(bits)
    edges = mx.array(((levels[1:] + levels[:-1]) / 2).astype(np.float32))
    found = mx.zeros(unit.shape, mx.uint32)
    for bit in reversed(range(bits)):
        step = 1 << bit
        found = found + mx.where(unit > mx.take(edges, found + (step - 1)), step, 0).astype(mx.uint32)
    return found


def _pack(indices: Any, bits: int) -> Any:
    """A bit string, the first index in the lowest bits of the first word."""
    width = indices.shape[-1]
    word, shift, spills = _places(width, bits)
    packed = mx.zeros((*indices.shape[:-1], code_words(width, bits) + 1), mx.uint32)
    packed = packed.at[..., word].add(indices << shift)
    packed = packed.at[..., word + 1].add(mx.where(spills, indices >> ((_WORD_BITS - shift) & 31), 0).astype(mx.uint32))
    return packed[..., :-1]


def _unpack(packed: Any, width: int, bits: int) -> Any:
    word, shift, spills = _places(width, bits)
    low = mx.take(packed, word, axis=-1) >> shift
    following = mx.minimum(word + 1, packed.shape[-1] - 1)
    high = mx.take(packed, following, axis=-1) << ((_WORD_BITS - shift) & 31)
    return (low | mx.where(spills, high, 0).astype(mx.uint32)) & ((1 << bits) - 1)


def _places(width: int, bits: int) -> tuple[Any, Any, Any]:
    """For each index its word, its shift there, and whether its end is in the next word."""
    first = mx.arange(width, dtype=mx.uint32) * bits
    shift = first % _WORD_BITS
    return first // _WORD_BITS, shift, shift + bits > _WORD_BITS


def _levels(bits: int) -> Any:
    return mx.array(codebook(bits).astype(np.float32))


def _signs(width: int) -> Any:
    drawn = np.random.Generator(np.random.PCG64(_SIGNS_SEED)).integers(0, 2, width)
    return mx.array((1 - 2 * drawn).astype(np.float32))
