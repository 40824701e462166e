"""What models answer that answer in one piece: vectors, rankings, transcripts, speech. Knows nothing of the fork."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Texts as vectors."""

    model: str
    """Id of the model that made them."""
    vectors: "NDArray[np.float32]"
    """`[texts, dimensions]`, each of length 1, in the order of the texts."""
    prompt_tokens: int
    """Tokens of all texts, after those that were too long were cut off."""


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document's place."""

    index: int
    """In the list that was given."""
    score: float
    """How well it answers the query, by the model; for most of them between 0 and 1."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Documents by how well they answer a query."""

    model: str
    """Id of the model that ranked them."""
    documents: tuple[RankedDocument, ...]
    """The best first."""
    prompt_tokens: int
    """Tokens of all pairs of query and document, as the fork counts them."""


@dataclass(frozen=True, slots=True)
class Transcription:
    """Speech as text."""

    model: str
    """Id of the model that listened."""
    text: str
    language: str | None
    """As the model or the request named it; None where nobody did."""
    segments: tuple[Mapping[str, Any], ...]
    """Parts of it in order, with the fields that the model gives, such as `start` and `end` in seconds; may be none."""


@dataclass(frozen=True, slots=True)
class Speech:
    """Text as speech."""

    model: str
    """Id of the model that spoke."""
    wav: bytes
    """A WAV file: 16 bit, one channel."""
    sample_rate_hz: int
    duration_s: float
