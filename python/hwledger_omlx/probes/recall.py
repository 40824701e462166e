"""Recall by depth and length: is a fact found wherever it stands in a context full of facts of its kind?

The caller passes how to count a conversation's tokens and how to answer conversations; this module builds contexts of
exact lengths, asks, and compares. Knows no engine and no tokenizer.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

from . import data

Message: TypeAlias = dict[str, str]
Conversation: TypeAlias = list[Message]

LENGTHS = (512, 1024, 2048, 4096)
DEPTHS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
INSTRUCTION = "You answer questions about the notes below."
SENTENCES_PER_PARAGRAPH = 6


def normalise(text: str) -> str:
    """The form in which answers are compared: case folded, single spaces, no punctuation at either end."""
    return " ".join(text.casefold().split()).strip(string.punctuation + " ")


def matches(given: str, expected: str) -> bool:
    """Whether two answers are the same but for case, outer punctuation and spaces."""
    return normalise(given) == normalise(expected)


@dataclass(frozen=True, slots=True)
class Case:
    """One question in one context.

    `length` is the length asked for and `tokens` the conversation's real one (never more); `depth` is the depth asked
    for, from 0 (first sentence) to 1 (last), and `position` the place of the fact's sentence, in the same measure.
    """

    length: int
    depth: float
    tokens: int
    position: float
    conversation: Conversation
    fact: data.Fact


@dataclass(frozen=True, slots=True)
class RecallCell:
    """Result at one length and depth."""

    length: int
    depth: float
    asked: int
    right: int

    @property
    def accuracy(self) -> float:
        """Share of exact answers."""
        return self.right / self.asked if self.asked else 0.0


@dataclass(frozen=True, slots=True)
class Miss:
    """A wrong answer."""

    length: int
    depth: float
    question: str
    expected: str
    given: str


@dataclass(frozen=True, slots=True)
class RecallReport:
    """Results of all cells, with the wrong answers."""

    cells: tuple[RecallCell, ...]
    misses: tuple[Miss, ...]

    @property
    def asked(self) -> int:
        """Number of questions."""
        return sum(cell.asked for cell in self.cells)

    @property
    def right(self) -> int:
        """Number of exact answers."""
        return sum(cell.right for cell in self.cells)

    @property
    def accuracy(self) -> float:
        """Share of exact answers over all cells."""
        return self.right / self.asked if self.asked else 0.0

    @property
    def worst(self) -> float:
        """Accuracy of the worst cell."""
        return min((cell.accuracy for cell in self.cells), default=0.0)

    def table(self) -> str:
        """A Markdown table: one row a length, one column a depth, accuracy in percent."""
        depths = sorted({cell.depth for cell in self.cells})
        rows = {(cell.length, cell.depth): cell for cell in self.cells}
        lines = ["| tokens | " + " | ".join(f"depth {depth:g}" for depth in depths) + " | all |"]
        lines.append("| ---: |" + " ---: |" * (len(depths) + 1))
        for length in sorted({cell.length for cell in self.cells}):
            row = [cell for cell in self.cells if cell.length == length]
            share = sum(cell.right for cell in row) / max(1, sum(cell.asked for cell in row))
            shown = [f"{100 * rows[length, d].accuracy:.1f}" if (length, d) in rows else "" for d in depths]
            lines.append(f"| {length} | " + " | ".join(shown) + f" | {100 * share:.1f} |")
        return "\n".join(lines)

    def to_json(self) -> str:
        """The whole report as JSON."""
        return json.dumps({"accuracy": self.accuracy, "worst": self.worst, **asdict(self)}, indent=1)


def seeded(seed: str) -> random.Random:
    """The source of every draw of a probe."""
    return random.Random(seed)


def write_notes(sentences: Sequence[str]) -> str:
    """Sentences as paragraphs."""
    size = SENTENCES_PER_PARAGRAPH
    return "\n\n".join(" ".join(sentences[i : i + size]) for i in range(0, len(sentences), size))


def draw_notes(rng: random.Random, fact_share: float) -> list[data.Fact | str]:
    """All facts and as many fillers as the share asks for, in random order."""
    drawn: list[data.Fact | str] = list(data.facts())
    rng.shuffle(drawn)
    if fact_share >= 1:
        return drawn
    pool = list(data.fillers())
    count = int(len(drawn) * (1 - fact_share) / fact_share)
    wanted = (pool * (count // len(pool) + 1))[:count]
    rng.shuffle(wanted)
    mixed: list[data.Fact | str] = []
    while drawn and wanted:
        mixed.append(drawn.pop() if rng.random() < fact_share else wanted.pop())
    return mixed + drawn


def _sentence(item: data.Fact | str) -> str:
    return item if isinstance(item, str) else item.statement


def _conversation(items: Sequence[data.Fact | str], question: str, role: str) -> Conversation:
    notes = write_notes([_sentence(item) for item in items])
    if role == "user":
        return [{"role": "user", "content": f"Here are my notes.\n\n{notes}\n\n{question}"}]
    return [{"role": "system", "content": f"{INSTRUCTION}\n\n{notes}"}, {"role": "user", "content": question}]


def fit(items: Sequence[data.Fact | str], length: int, count: Callable[[Sequence[data.Fact | str]], int]) -> int:
    """The largest number of leading items whose conversation has at most `length` tokens, by doubling and bisection."""
    low, high = 0, min(8, len(items))
    while high < len(items) and count(items[:high]) <= length:
        low, high = high, min(2 * high, len(items))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(items[:middle]) <= length else (low, middle - 1)
    return low


def _groups(
    count_tokens: Callable[[Conversation], int],
    lengths: Sequence[int],
    depths: Sequence[float],
    per_cell: int,
    seed: int,
    fact_share: float,
    role: str,
) -> Iterator[list[Case]]:
    """One group of cases a context: the same notes, a question for every depth."""
    longest = max((fact.question for fact in data.facts()), key=len)
    for length in lengths:
        for sample in range(per_cell):
            items = draw_notes(seeded(f"{seed}/{length}/{sample}"), fact_share)
            size = fit(items, length, lambda some: count_tokens(_conversation(some, longest, role)))
            notes = items[:size]
            places = {i: item for i, item in enumerate(notes) if isinstance(item, data.Fact)}
            if len(places) < len(set(depths)):
                raise ValueError(f"a context of {length} tokens is too short for {len(depths)} depths")
            if size == len(items):
                raise ValueError(f"the probe set is too small for {length} tokens")
            group: list[Case] = []
            for depth in depths:
                place = min(places, key=lambda i: abs(i - depth * (size - 1)))
                fact = places.pop(place)
                conversation = _conversation(notes, fact.question, role)
                position = place / max(1, size - 1)
                group.append(Case(length, depth, count_tokens(conversation), position, conversation, fact))
            yield group


def recall_cases(
    count_tokens: Callable[[Conversation], int],
    *,
    lengths: Sequence[int] = LENGTHS,
    depths: Sequence[float] = DEPTHS,
    per_cell: int = 8,
    seed: int = 0,
    fact_share: float = 0.6,
    role: str = "system",
) -> list[Case]:
    """The cases that `recall` asks, in its order."""
    groups = _groups(count_tokens, lengths, depths, per_cell, seed, fact_share, role)
    return [case for group in groups for case in group]


def recall(
    answer: Callable[[list[Conversation]], list[str]],
    count_tokens: Callable[[Conversation], int],
    *,
    lengths: Sequence[int] = LENGTHS,
    depths: Sequence[float] = DEPTHS,
    per_cell: int = 8,
    seed: int = 0,
    fact_share: float = 0.6,
    role: str = "system",
) -> RecallReport:
    """Ask for facts at every depth of contexts of every length, and count exact answers.

    `answer` gets one context's conversations at a time (one a depth; they share all but the question, so a prefix cache
    helps) and returns the replies in the same order, at least 24 tokens where the model does not end earlier.
    `count_tokens` gives the length of a conversation as the model sees it, generation prompt included. `per_cell`
    contexts are made for each length, so a cell asks `per_cell` questions. `fact_share` is the share of sentences that
    state a fact, the rest being plain sentences; all facts but the one asked for are distractors. `role` says where the
    notes stand: in the "system" message, or in the "user" message before the question. Deterministic in `seed`.

    Raises ValueError if a length is too short for the depths or longer than the probe set can fill.
    """
    right: dict[tuple[int, float], int] = {}
    asked: dict[tuple[int, float], int] = {}
    misses: list[Miss] = []
    for group in _groups(count_tokens, lengths, depths, per_cell, seed, fact_share, role):
        given = answer([case.conversation for case in group])
        for case, reply in zip(group, given, strict=True):
            cell = (case.length, case.depth)
            asked[cell] = asked.get(cell, 0) + 1
            good = matches(reply, case.fact.answer)
            right[cell] = right.get(cell, 0) + good
            if not good:
                misses.append(Miss(case.length, case.depth, case.fact.question, case.fact.answer, reply))
    cells = tuple(RecallCell(length, depth, asked[length, depth], right[length, depth]) for length, depth in asked)
    return RecallReport(cells, tuple(misses))
