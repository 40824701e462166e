"""The arrays that `bench kv` puts through codecs, and how far what comes back lies from them. Knows no codec."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH = 128
OUTLIER_CHANNELS = (7, 38, 69, 100)
"""Of 128: scaled by 10, 17, 23 and 30, and shifted."""
_SCALES = (10.0, 17.0, 23.0, 30.0)
_SHIFTS = (5.0, -8.0, 12.0, -20.0)

Vectors = NDArray[np.float32]


def normal(rows: int, tokens: int, seed: int = 0) -> Vectors:
    """Standard normal numbers `[rows, tokens, 128]`."""
    return np.random.default_rng(seed).standard_normal((rows, tokens, WIDTH), np.float32)


def with_outliers(rows: int, tokens: int, seed: int = 0) -> Vectors:
    """The same, with four channels as keys have them: far larger than the others, and not around zero."""
    made = normal(rows, tokens, seed)
    for channel, scale, shift in zip(OUTLIER_CHANNELS, _SCALES, _SHIFTS, strict=True):
        made[..., channel] = made[..., channel] * scale + shift
    return made


def distortion(given: Vectors, back: Vectors) -> float:
    """Mean over the vectors of squared error over squared length: the D_mse of TurboQuant (arXiv 2504.19874)."""
    wrong = np.square(given.astype(np.float64) - back).sum(-1)
    return float((wrong / np.square(given.astype(np.float64)).sum(-1)).mean())


def error_on_other_channels(given: Vectors, back: Vectors) -> float:
    """Length of the error over length, on the channels that are no outliers."""
    others = np.setdiff1d(np.arange(WIDTH), OUTLIER_CHANNELS)
    one, other = given[..., others].astype(np.float64), back[..., others].astype(np.float64)
    return float(np.linalg.norm(one - other) / np.linalg.norm(one))


def typed(array: Vectors, dtype: str) -> Any:
    """As an evaluated MLX array of the type with that name."""
    import mlx.core as mx

    made = mx.array(array).astype(getattr(mx, dtype))
    mx.eval(made)
    return made
