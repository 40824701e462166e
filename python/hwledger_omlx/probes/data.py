"""The probes' material, read from the files in `data/`. Knows nothing of models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "data"

PIECE_END = "\n%%\n"
"""What separates the pieces of heldout.txt."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A stated fact, one question about it and the exact answer.

    `subject` and `kind` together are unique in the set, so a question has one answer whatever other facts are near it.
    """

    subject: str
    kind: str
    statement: str
    question: str
    answer: str


@cache
def facts() -> tuple[Fact, ...]:
    """All facts of the probe set; every name and value is held out from training."""
    lines = (FOLDER / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(Fact(**json.loads(line)) for line in lines)


@cache
def fillers() -> tuple[str, ...]:
    """Plain sentences that state nothing a question asks for."""
    lines = (FOLDER / "fillers.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line)["text"] for line in lines)


@cache
def heldout_text() -> str:
    """The held-out plain text, pieces separated by `PIECE_END`."""
    return (FOLDER / "heldout.txt").read_text(encoding="utf-8")


@cache
def heldout_pieces() -> tuple[str, ...]:
    """The stories and notes of the held-out text."""
    return tuple(heldout_text().removesuffix(PIECE_END).split(PIECE_END))
