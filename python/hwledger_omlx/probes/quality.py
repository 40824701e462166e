"""Quality on the held-out text: perplexity of one model, and divergence between two. Knows no engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import data

SEPARATOR = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Negative log-likelihood of held-out text: its sum in nats over `tokens` predicted tokens."""

    tokens: int
    nats: float

    @property
    def perplexity(self) -> float:
        """exp of the mean loss of a token."""
        return math.exp(self.nats / self.tokens)


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far a model's predictions lie from a reference's, over `tokens` positions.

    `mean_kl` and `max_kl` are KL(reference || other) in nats; `top1` is the share of positions with the same likeliest
    token.
    """

    tokens: int
    mean_kl: float
    max_kl: float
    top1: float


def heldout_windows(
    encode: Callable[[str], Sequence[int]], *, window: int = 1024, windows: int = 8, separator: str = SEPARATOR
) -> list[list[int]]:
    """Token ids of the held-out text, cut into at most `windows` windows of exactly `window` tokens.

    Pieces are joined by `separator`, which the shipped model saw between texts in training; pass "\\n\\n" for others.
    """
    if window < 2 or windows < 1:
        raise ValueError("a window needs two tokens, and there must be one window")
    ids: list[int] = []
    for piece in data.heldout_pieces():
        ids += encode(separator + piece)
        if len(ids) >= window * windows:
            break
    count = min(windows, len(ids) // window)
    if not count:
        raise ValueError(f"the held-out text has only {len(ids)} tokens")
    return [ids[i * window : (i + 1) * window] for i in range(count)]


def perplexity(
    log_probs: Callable[[list[int]], ArrayLike],
    encode: Callable[[str], Sequence[int]],
    *,
    window: int = 1024,
    windows: int = 8,
    separator: str = SEPARATOR,
) -> Perplexity:
    """Perplexity on the held-out text.

    `log_probs` gets the n ids of a window and returns n - 1 natural log-probabilities, that of each id but the first
    given those before it. `encode` turns text into ids without adding any (special tokens in the text are parsed).
    """
    nats, tokens = 0.0, 0
    for ids in heldout_windows(encode, window=window, windows=windows, separator=separator):
        values = np.asarray(log_probs(ids), np.float64)
        if values.shape != (len(ids) - 1,):
            raise ValueError(f"log_probs must return {len(ids) - 1} values, got shape {values.shape}")
        nats -= float(values.sum())
        tokens += len(values)
    return Perplexity(tokens, nats)


def _log_softmax(logits: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(logits, np.float64)
    values = values - values.max(-1, keepdims=True)
    result: NDArray[np.float64] = values - np.log(np.exp(values).sum(-1, keepdims=True))
    return result


def divergence(
    reference: Callable[[list[int]], ArrayLike],
    other: Callable[[list[int]], ArrayLike],
    encode: Callable[[str], Sequence[int]],
    *,
    window: int = 1024,
    windows: int = 8,
    separator: str = SEPARATOR,
) -> Divergence:
    """KL divergence and top-1 agreement of two models on the held-out text.

    Each callable gets the n ids of a window and returns logits [n, vocabulary], or those of the last m positions.
    """
    total, worst, same, tokens = 0.0, 0.0, 0, 0
    for ids in heldout_windows(encode, window=window, windows=windows, separator=separator):
        p, q = _log_softmax(reference(ids)), _log_softmax(other(ids))
        if p.shape != q.shape:
            raise ValueError(f"logits differ in shape: {p.shape} and {q.shape}")
        kl = np.maximum((np.exp(p) * (p - q)).sum(-1), 0.0)
        total += float(kl.sum())
        worst = max(worst, float(kl.max()))
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
        tokens += len(kl)
    return Divergence(tokens, total / tokens, worst, same / tokens)
