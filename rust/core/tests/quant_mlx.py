"""Writes quant_mlx.json: digests of what MLX's CPU makes of numbers that quant_mlx.rs makes alike.

    python rust/core/tests/quant_mlx.py > rust/core/tests/quant_mlx.json

Numbers are bits of splitmix64, so that both sides have the same without a file: see `vectors`. A digest is FNV-1a of 64
bits. NaN is made positive, quiet and without payload first, for its sign and payload are the processor's.
"""

import itertools
import json
import sys

import mlx.core as mx
import numpy as np

WIDTH = 256
VECTORS = 48
# Bits of a mantissa and of an exponent.
ELEMENTS = {"float16": (mx.float16, 10, 5), "bfloat16": (mx.bfloat16, 7, 8), "float32": (mx.float32, 23, 8)}


def splitmix64(seed: int):
    """Numbers of 64 bits without end: Steele, Lea, Flood 2014, with the constants of its reference implementation."""
    mask = (1 << 64) - 1
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def vectors(mantissa: int, exponent: int) -> list[list[int]]:
    """Bits of numbers, in vectors of all kinds.

    The first three vectors are 0, -0 and a constant, the next five any bits at all (so NaN, infinity and subnormals
    among them), the others have exponents of a window of 1 to 8 that wanders over all of them; in every third of
    those the numbers are positive, in every fourth one NaN is among them, in every fifth an infinity.
    """
    bits = splitmix64(mantissa)
    size = 1 + exponent + mantissa
    infinity = ((1 << exponent) - 1) << mantissa
    rows = []
    for row in range(VECTORS):
        window = row % 8 + 1
        first = row * ((1 << exponent) - 1) // VECTORS
        numbers = []
        for _ in range(WIDTH):
            z = next(bits)
            if row < 3:
                number = (0, 1 << (size - 1), infinity // 2 + 5)[row]
            elif row < 8:
                number = z >> (64 - size)
            else:
                biased = min(first + (z >> 40) % window, (1 << exponent) - 2)
                sign = 0 if row % 3 == 0 else z >> 63
                number = sign << (size - 1) | biased << mantissa | z & ((1 << mantissa) - 1)
            numbers.append(number)
        if row >= 8 and row % 4 == 0:
            numbers[row] = infinity | 1 << (mantissa - 1)
        if row >= 8 and row % 5 == 0:
            numbers[2 * row] = infinity | (row % 2) << (size - 1)
        rows.append(numbers)
    return rows


def fnv1a(array: mx.array) -> str:
    """A digest of an array's bytes, in which every NaN is the same."""
    raw = array
    if array.dtype != mx.uint32:
        nan = np.array(mx.isnan(array))
        raw = np.array(array.view(mx.uint32 if array.dtype == mx.float32 else mx.uint16))
        raw[nan] = {mx.float16: 0x7E00, mx.bfloat16: 0x7FC0, mx.float32: 0x7FC00000}[array.dtype]
    digest = 0xCBF29CE484222325
    for byte in np.array(raw).tobytes():
        digest = (digest ^ byte) * 0x100000001B3 & ((1 << 64) - 1)
    return f"{digest:016x}"


def cases():
    """What MLX makes of the vectors, for each type, bits and group."""
    mx.set_default_device(mx.cpu)
    for (element, (dtype, mantissa, exponent)), bits, group in itertools.product(
        ELEMENTS.items(), (8, 6, 5, 4, 3, 2), (32, 64, 128)
    ):
        raw = np.array(vectors(mantissa, exponent), dtype=np.uint32 if dtype == mx.float32 else np.uint16)
        codes, scales, biases = mx.quantize(mx.array(raw).view(dtype), group_size=group, bits=bits)
        numbers = mx.dequantize(codes, scales, biases, group_size=group, bits=bits)
        parts = {"codes": codes, "scales": scales, "biases": biases, "numbers": numbers}
        yield {"element": element, "bits": bits, "group": group} | {name: fnv1a(part) for name, part in parts.items()}


lines = ",\n".join(json.dumps(case) for case in cases())
sys.stdout.write(f'{{"mlx": "{mx.__version__}", "cases": [\n{lines}\n]}}\n')
