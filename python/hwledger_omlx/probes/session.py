"""A fixed agent session: one long system prompt of notes, then turns whose answers are known.

Knows no engine: the caller passes how to answer a conversation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from . import data
from .recall import INSTRUCTION, Conversation, draw_notes, fit, matches, seeded, write_notes


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user says, and the exact reply."""

    user: str
    expected: str


@dataclass(frozen=True, slots=True)
class Session:
    """A system prompt and the turns that follow it."""

    system: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class TurnResult:
    """One turn as it went."""

    user: str
    expected: str
    given: str
    right: bool


@dataclass(frozen=True, slots=True)
class SessionReport:
    """A session as it went."""

    turns: tuple[TurnResult, ...]

    @property
    def right(self) -> int:
        """Number of exact replies."""
        return sum(turn.right for turn in self.turns)

    @property
    def accuracy(self) -> float:
        """Share of exact replies."""
        return self.right / len(self.turns)


@cache
def agent_session() -> Session:
    """The fixed session: about 2,200 tokens of notes, seven turns, one of them a fact told by the user."""
    content = json.loads((data.FOLDER / "agent_session.json").read_text(encoding="utf-8"))
    return Session(content["system"], tuple(Turn(**turn) for turn in content["turns"]))


def build_session(
    count_tokens: Callable[[Conversation], int],
    *,
    length: int = 2200,
    turns: int = 6,
    seed: int = 0,
    fact_share: float = 0.6,
) -> Session:
    """A session of any size: a system prompt of at most `length` tokens, `turns` questions spread over its depth.

    `count_tokens` gives the length of a conversation. Deterministic in `seed`. Raises ValueError if the prompt holds
    fewer facts than turns.
    """
    rng = seeded(f"session/{seed}")
    items = draw_notes(rng, fact_share)

    def system(some: list[data.Fact | str]) -> str:
        notes = write_notes([item if isinstance(item, str) else item.statement for item in some])
        return f"{INSTRUCTION}\n\n{notes}"

    size = fit(items, length, lambda some: count_tokens([{"role": "system", "content": system(list(some))}]))
    told = [item for item in items[:size] if isinstance(item, data.Fact)]
    if len(told) < turns:
        raise ValueError(f"{length} tokens hold {len(told)} facts, fewer than {turns} turns")
    chosen = [told[(2 * i + 1) * len(told) // (2 * turns)] for i in range(turns)]
    rng.shuffle(chosen)
    return Session(system(items[:size]), tuple(Turn(fact.question, fact.answer) for fact in chosen))


def run_session(session: Session, answer: Callable[[Conversation], str]) -> SessionReport:
    """Hold the session, growing the history by the model's own replies, and compare every reply."""
    conversation: Conversation = [{"role": "system", "content": session.system}]
    results: list[TurnResult] = []
    for turn in session.turns:
        conversation.append({"role": "user", "content": turn.user})
        given = answer([dict(message) for message in conversation])
        conversation.append({"role": "assistant", "content": given})
        results.append(TurnResult(turn.user, turn.expected, given, matches(given, turn.expected)))
    return SessionReport(tuple(results))
