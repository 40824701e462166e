"""The runtime term of a plan: what a process takes beyond what can be computed. Fitted by the ledger, used by plans."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Runtime:
    """What this machine was seen to take beyond the other terms."""

    bytes: int
    source: str
    """Where it comes from, for people."""
    samples: int
    """Requests that it was fitted to."""
