"""What a loaded model is at: requests that wait and are at work, and whether its inference thread gets on.

Knows the fork's names of these; judges nothing. Reads counters only, so any thread may ask.
"""

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import PurePath

from hwledger_omlx.engine.upstream import Placed, attribute, requests_of
from hwledger_omlx.hooks import prefill_progress
from hwledger_omlx.hooks.layer_caches.dial import dial_of


@dataclass(frozen=True, slots=True)
class Activity:
    """Of one model, at one moment."""

    kv_policy: str
    """Of new requests."""
    waiting: int
    """Requests that were accepted and have not begun."""
    running: int
    """Requests in prefill or decoding."""
    steps: int
    """Of the scheduler, since the model was loaded."""
    chunks: int
    """Of prefill, in this process, by models of this name."""
    scheduled: bool
    """Whether the scheduler has something to do, so that there must be a next step."""

    @property
    def requests(self) -> int:
        """Accepted and not ended."""
        return self.waiting + self.running


def activity(placed: Placed) -> Activity | None:
    """What a model is at; None where it is being unloaded."""
    core = getattr(requests_of(placed.engine), "engine", None)
    scheduler = getattr(core, "scheduler", None)
    if scheduler is None:
        return None
    scheduled = len(scheduler.requests)
    running = max(0, scheduled - len(scheduler.waiting))
    return Activity(
        kv_policy=dial_of(scheduler).policy,
        # Accepted by the engine: the scheduler takes them in on the inference thread, when that has time.
        waiting=max(0, len(attribute(core, "_output_collectors")) - running),
        running=running,
        steps=attribute(core, "_steps_executed"),
        chunks=prefill_progress.chunks_of(PurePath(scheduler.config.model_name).name),
        scheduled=scheduler.has_requests(),
    )


@dataclass(frozen=True, slots=True)
class Requests:
    """Of a model of any kind, at one moment."""

    waiting: int
    """Requests that were accepted and have not begun, where the model tells them from those that have."""
    running: int
    longest_s: float | None = None
    """How long the oldest has been there; None where there is none, and for models that generate."""


def requests_of_any_kind(placed: Placed) -> Requests | None:
    """How many requests a model has; None where it is being unloaded."""
    if placed.generates:
        at = activity(placed)
        return None if at is None else Requests(at.waiting, at.running)
    said = attribute(placed.engine, "get_activity_snapshot")()
    ages_s = [each["elapsed_seconds"] for each in said["activities"] if each["elapsed_seconds"] is not None]
    return Requests(0, said["active_requests"], max(ages_s, default=None))


def is_busy(placed: Placed) -> bool:
    """Whether a model of any kind has requests that were accepted and have not ended."""
    at = requests_of_any_kind(placed)
    return at is not None and at.waiting + at.running > 0


def ask(placed: Placed) -> Future[int] | None:
    """Has the model's inference thread answer when it next has time, with its id; None where it is being ended."""
    core = getattr(requests_of(placed.engine), "engine", None)
    executor = getattr(core, "_mlx_executor", None)
    if executor is None:
        return None
    try:
        answer: Future[int] = executor.submit(threading.get_ident)
    except RuntimeError:  # it takes nothing any more
        return None
    return answer
