"""Quality on the held-out text: perplexity of one model, and divergence between two. Knows no engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
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

    `mean_kl` and `max_kl` are KL(reference || other) in nats; `top1` is the share of positions where the two have a
    likeliest token in common. Logits of 16 bits tie, at 12 % of the shipped model's positions, and which of two equals
    comes first says nothing.
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


def compare(reference: ArrayLike, other: ArrayLike) -> Divergence:
    """Divergence of two models' logits `[n, vocabulary]` at the same n positions."""
    reference, other = np.asarray(reference), np.asarray(other)
    if reference.shape != other.shape:
        raise ValueError(f"logits differ in shape: {reference.shape} and {other.shape}")
    return combined(
        _compare(reference[start : start + _POSITIONS], other[start : start + _POSITIONS])
        for start in range(0, len(reference), _POSITIONS)
    )


def compared_in_pieces(reference: ArrayLike, other: ArrayLike, piece_tokens: int) -> list[Divergence]:
    """The divergence of each run of `piece_tokens` positions, the last one maybe shorter; else as `compare`."""
    reference, other = np.asarray(reference), np.asarray(other)
    return [
        compare(reference[start : start + piece_tokens], other[start : start + piece_tokens])
        for start in range(0, len(reference), piece_tokens)
    ]


_POSITIONS = 128
"""Compared at a time: with 150,000 tokens in a vocabulary, a thousand would take gigabytes in float64."""


def _compare(reference: NDArray[np.float32], other: NDArray[np.float32]) -> Divergence:
    p, q = _log_softmax(reference), _log_softmax(other)
    kl = np.maximum((np.exp(p) * (p - q)).sum(-1), 0.0)
    both = (p == p.max(-1, keepdims=True)) & (q == q.max(-1, keepdims=True))
    return Divergence(len(kl), float(kl.mean()), float(kl.max()), float(both.any(-1).mean()))


def combined(parts: Iterable[Divergence]) -> Divergence:
    """The divergence over the positions of all parts together."""
    found = list(parts)
    tokens = sum(part.tokens for part in found)
    if not tokens:
        raise ValueError("nothing was compared")
    mean_kl, top1 = (sum(getattr(part, name) * part.tokens for part in found) / tokens for name in ("mean_kl", "top1"))
    return Divergence(tokens, mean_kl, max(part.max_kl for part in found), top1)


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
    return combined(
        compare(reference(ids), other(ids))
        for ids in heldout_windows(encode, window=window, windows=windows, separator=separator)
    )


def log_probs_of(logits: ArrayLike, ids: Sequence[int]) -> NDArray[np.float64]:
    """Log-probability of each id but the first given those before it, from logits `[n, vocabulary]` of the n ids."""
    values = np.asarray(logits)[:-1]
    found = [
        _log_softmax(values[start : start + _POSITIONS])[
            np.arange(len(values[start : start + _POSITIONS])), ids[start + 1 : start + 1 + _POSITIONS]
        ]
        for start in range(0, len(values), _POSITIONS)
    ]
    return np.concatenate(found)
