"""Whether the engine gets on: looks at its loop and its models every now and then, and says what is stuck since when.

A step of the scheduler, a chunk of prefill, or the answer of a thread that has nothing else to do is a sign of life. A
slow machine may take its time for one of them: what was once called stuck and went on may take thrice as long again.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from hwledger_omlx.engine.activity import Activity, activity, ask
from hwledger_omlx.engine.generation import LoadedModel

_LOOKS_A_LIMIT = 12
_MOST_S_BETWEEN_LOOKS = 5.0
_OF_LONGEST_PAUSE = 3.0


@dataclass(frozen=True, slots=True)
class Stuck:
    """A model that has requests and does not get on, or the engine's loop."""

    model_id: str
    """Empty where it is the loop, which all models need."""
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
    longest_pause_s: float = 0.0
    """The longest time without a sign of life that ended in one."""

    @property
    def answered(self) -> bool:
        return self.answer is None or self.answer.done()


class Heartbeat:
    """Watches one engine, from a thread that is none of the engine's.

    Args:
        models: the loaded ones.
        stuck_after_s: without a sign of life for so long, a model with requests is stuck.
        clock: seconds that never go back.
        ask_loop: has the engine's loop answer when it next has time; None where there is no loop to ask.
    """

    def __init__(
        self,
        models: Callable[[], Mapping[str, LoadedModel]],
        stuck_after_s: float,
        clock: Callable[[], float] = time.monotonic,
        ask_loop: "Callable[[], Future[None] | None]" = lambda: None,
    ) -> None:
        self.stuck_after_s = stuck_after_s
        self._models = models
        self._clock = clock
        self._ask_loop = ask_loop
        self._loop_asked: tuple[float, Future[None]] | None = None
        self._pulses: dict[str, _Pulse] = {}

    @property
    def pause_s(self) -> float:
        """How long to wait between two looks."""
        return min(_MOST_S_BETWEEN_LOOKS, self.stuck_after_s / _LOOKS_A_LIMIT)

    def look(self) -> None:
        """Takes note of every sign of life since the last look."""
        now_s = self._clock()
        if self._loop_asked is None or self._loop_asked[1].done():
            answer = self._ask_loop()
            self._loop_asked = None if answer is None else (now_s, answer)
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
        return self._stuck_loop(now_s, unix_s) + tuple(
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
            if now_s - pulse.alive_s >= self._limit_s(pulse)
        )

    def _limit_s(self, pulse: _Pulse) -> float:
        longest_s = pulse.longest_pause_s
        return self.stuck_after_s if longest_s < self.stuck_after_s else _OF_LONGEST_PAUSE * longest_s

    def _stuck_loop(self, now_s: float, unix_s: float) -> tuple[Stuck, ...]:
        if self._loop_asked is None or self._loop_asked[1].done():
            return ()
        asked_s, _ = self._loop_asked
        for_s = now_s - asked_s
        why = f"the engine's loop has been busy with one thing for {for_s:.0f} s and more"
        return (Stuck("", unix_s + asked_s, for_s, 0, why),) if for_s >= self.stuck_after_s else ()

    def _is_known(self, model_id: str, model: LoadedModel) -> bool:
        pulse = self._pulses.get(model_id)
        return pulse is not None and pulse.model is model


def _look(pulse: _Pulse, now_s: float) -> None:
    at = pulse.now = activity(pulse.model.placed)
    seen = (0, 0) if at is None else (at.steps, at.chunks)
    # A thread that answers has not hung; it gets on only if there is no step that it should have made.
    idle = at is None or not at.requests or (pulse.answered and not at.scheduled)
    if idle or seen != pulse.seen:
        if not idle:
            pulse.longest_pause_s = max(pulse.longest_pause_s, now_s - pulse.alive_s)
        pulse.alive_s, pulse.seen = now_s, seen
    if pulse.answered:
        pulse.answer, pulse.asked_s = ask(pulse.model.placed), now_s
