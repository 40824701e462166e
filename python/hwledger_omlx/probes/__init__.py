"""Probes of what a model recalls and how well it predicts: recall by depth, perplexity, divergence, an agent session.

Every probe takes callables and knows no engine; its material is data beside this file, made once with names and values
that the shipped model never saw in training.
"""

from .data import Fact, facts, fillers, heldout_pieces, heldout_text
from .quality import (
    Divergence,
    Perplexity,
    combined,
    compare,
    compared_in_pieces,
    divergence,
    heldout_windows,
    log_probs_of,
    perplexity,
)
from .recall import (
    Case,
    Conversation,
    Message,
    Miss,
    RecallCell,
    RecallReport,
    matches,
    normalise,
    recall,
    recall_cases,
)
from .session import Session, SessionReport, Turn, TurnResult, agent_session, build_session, run_session

__all__ = [
    "Case",
    "Conversation",
    "Divergence",
    "Fact",
    "Message",
    "Miss",
    "Perplexity",
    "RecallCell",
    "RecallReport",
    "Session",
    "SessionReport",
    "Turn",
    "TurnResult",
    "agent_session",
    "build_session",
    "combined",
    "compare",
    "compared_in_pieces",
    "divergence",
    "facts",
    "fillers",
    "heldout_pieces",
    "heldout_text",
    "heldout_windows",
    "log_probs_of",
    "matches",
    "normalise",
    "perplexity",
    "recall",
    "recall_cases",
    "run_session",
]
