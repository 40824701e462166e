"""Whether the inference threads get on: looks at each model every now and then, and says which is stuck, since when.

A step of the scheduler, a chunk of prefill, or the answer of a thread that has nothing else to do is a sign of life. A
slow machine may take its time for one of them, so only a limit of many seconds makes a model stuck.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from hwledger_omlx.engine.activity import Activity, activity, ask
from hwledger_omlx.engine.generation import LoadedModel

_LOOKS_A_LIMIT = 12
_MOST_S_BETWEEN_LOOKS = 5.0


@dataclass(frozen=True, slots=True)
class Stuck:
    """A model that has requests and does not get on."""

    model_id: str
    since_unix_s: float
    """The last sign of life."""
    for_s: float
    requests: int
    why: str


@dataclass(slots=True)
class _Pulse:
    model: LoadedModel
    alive_s: float
    """The last sign of life, on the monotonic clock."""
    seen: tuple[int, int] = (-1, -1)
    """Steps and chunks at the last look."""
    now: Activity | None = None
    asked_s: float = 0.0
    answer: "Future[int] | None" = field(default=None, repr=False)

    @property
    def answered(self) -> bool:
        return self.answer is None or self.answer.done()


class Heartbeat:
    """Watches the models of one engine, from the engine's loop.

    Args:
        models: the loaded ones.
        stuck_after_s: without a sign of life for so long, a model with requests is stuck.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        models: Callable[[], Mapping[str, LoadedModel]],
        stuck_after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stuck_after_s = stuck_after_s
        self._models = models
        self._clock = clock
        self._pulses: dict[str, _Pulse] = {}

    async def watch(self) -> None:
        """Looks until it is cancelled."""
        pause_s = min(_MOST_S_BETWEEN_LOOKS, self.stuck_after_s / _LOOKS_A_LIMIT)
        while True:
            self.look()
            await asyncio.sleep(pause_s)

    def look(self) -> None:
        """Takes note of every sign of life since the last look."""
        now_s = self._clock()
        models = self._models()
        known = self._pulses
        # Under the same name another model may be loaded now.
        pulses = {
            model_id: known[model_id] if self._is_known(model_id, model) else _Pulse(model, now_s)
            for model_id, model in models.items()
        }
        for pulse in pulses.values():
            _look(pulse, now_s)
        self._pulses = pulses

    def stuck(self) -> tuple[Stuck, ...]:
        """The models that do not get on."""
        now_s = self._clock()
        unix_s = time.time() - now_s
        return tuple(
            Stuck(
                model_id,
                since_unix_s=unix_s + pulse.alive_s,
                for_s=now_s - pulse.alive_s,
                requests=0 if pulse.now is None else pulse.now.requests,
                why="the inference thread is free and makes no step"
                if pulse.answered
                else f"the inference thread has been busy with one thing for {now_s - pulse.asked_s:.0f} s and more",
            )
            for model_id, pulse in self._pulses.items()
            if now_s - pulse.alive_s >= self.stuck_after_s
        )

    def _is_known(self, model_id: str, model: LoadedModel) -> bool:
        pulse = self._pulses.get(model_id)
        return pulse is not None and pulse.model is model


def _look(pulse: _Pulse, now_s: float) -> None:
    at = pulse.now = activity(pulse.model.placed)
    seen = (0, 0) if at is None else (at.steps, at.chunks)
    # A thread that answers has not hung; it gets on only if there is no step that it should have made.
    idle = at is None or not at.requests or (pulse.answered and not at.scheduled)
    if idle or seen != pulse.seen:
        pulse.alive_s, pulse.seen = now_s, seen
    if pulse.answered:
        pulse.answer, pulse.asked_s = ask(pulse.model.placed), now_s
