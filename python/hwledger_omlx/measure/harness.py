"""Measures contestants in one run, in turns, several times, and turns the rounds into results.

Every bench and quality command of the project goes through here. Knows nothing of engines, models or stores, nor of
clocks: a contestant measures itself and answers numbers.

How the numbers are made:
- Turns. Within a round every contestant runs each case right after the others, and the order changes from round to
  round (A B, B A, B A, A B; with three contestants all six orders), so that a machine that grows slower or faster over
  the run favours nobody.
- Values are medians over the rounds; their spread is smallest to largest. With the five or so rounds that a bench can
  afford, quartiles would be interpolated out of two numbers and would hide the one bad round that one should see.
- A ratio is the median of the rounds' own ratios, not the ratio of the medians: the two numbers of one round were taken
  seconds apart on the same machine in the same state, so a neighbour's load cancels in each before the median is taken.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Self

from hwledger_omlx.errors import HarnessError
from hwledger_omlx.measure.bars import Comparison, Result


@dataclass(frozen=True, slots=True)
class Turn:
    """What a contestant is asked to do now."""

    round: int
    """Counted from 0 through the warm-up and on; every contestant gets the same, so prompts can be made from it."""
    case: str
    """Which of the bench's cases; empty where there is one only."""
    warm_up: bool
    """Whether the answer will be thrown away."""


Measure = Callable[[Turn], Mapping[str, float]]
"""One turn: runs the case and answers its measurements by name, each in the unit that its comparison says."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something measured: a name, and how it is opened. What opening costs (loading a model) is never measured."""

    name: str
    open: Callable[[], AbstractContextManager[Measure]]
    once: bool = False
    """Deterministic: one turn a case, no warm-up. Its one number is paired with every round of the others."""

    @classmethod
    def of(cls, name: str, measure: Measure, *, once: bool = False) -> Self:
        """A contestant that needs no opening."""
        return cls(name, lambda: nullcontext(measure), once)


@dataclass(slots=True)
class Samples:
    """What was measured: contestant, measurement, one number a round in the order of the rounds."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, contestant: str, measurements: Mapping[str, float]) -> None:
        """Adds one turn's numbers.

        Raises:
            HarnessError: a measurement is no finite number.
        """
        for name, value in measurements.items():
            number = float(value)
            if not math.isfinite(number):
                raise HarnessError(f"contestant {contestant!r} measured {name} = {number}, which is no number")
            self.values.setdefault(contestant, {}).setdefault(name, []).append(number)

    def of(self, contestant: str, measurement: str) -> list[float]:
        """The numbers of one measurement.

        Raises:
            HarnessError: there are none; says which there are.
        """
        measured = self.values.get(contestant)
        if measured is None:
            raise HarnessError(f"no contestant {contestant!r}; there are: {', '.join(self.values) or 'none'}")
        if measurement not in measured:
            raise HarnessError(
                f"contestant {contestant!r} measured no {measurement!r}; it measured: {', '.join(measured)}"
            )
        return measured[measurement]

    def compare(self, comparison: Comparison) -> Result:
        """The result that `comparison` asks for."""
        own = self.of(comparison.contestant, comparison.measurement)
        other = None
        if comparison.against is not None:
            other = self.of(comparison.against, comparison.against_measurement or comparison.measurement)
        ratios = _ratios(own, other, inverted=comparison.ratio_is == "against/value") if other is not None else None
        return Result(
            name=comparison.name,
            value=median(own),
            unit=comparison.unit,
            against=None if other is None else median(other),
            ratio=median(ratios) if ratios else None,
            bar=comparison.bar,
            spread=(min(own), max(own)),
            ratio_spread=(min(ratios), max(ratios)) if ratios else None,
            rounds=len(own),
            better=comparison.better,
            ratio_is=comparison.ratio_is,
            contestant=comparison.contestant,
            against_contestant=comparison.against,
        )


def _ratios(own: list[float], other: list[float], *, inverted: bool) -> list[float] | None:
    """One ratio a round; a single number is paired with every round of the other. None where one divides by zero."""
    if len(own) != len(other):
        if 1 not in (len(own), len(other)):
            raise HarnessError(f"cannot pair {len(own)} rounds with {len(other)}")
        rounds = max(len(own), len(other))
        own, other = (side * rounds if len(side) == 1 else side for side in (own, other))
    above, below = (other, own) if inverted else (own, other)
    if 0.0 in below:
        return None
    return [a / b for a, b in zip(above, below, strict=True)]


def order_of_round(contestants: int, round_number: int) -> list[int]:
    """Positions of the contestants in that round's order: rotated every second round, backwards every other."""
    shift = (round_number // 2) % max(contestants, 1)
    order = [*range(shift, contestants), *range(shift)]
    return order[::-1] if round_number % 2 else order


def turns(
    contestants: Sequence[Contestant], cases: Sequence[str], rounds: int, warm_up: int
) -> Iterator[tuple[int, Turn]]:
    """Every turn of a run in order, with the position of the contestant that takes it."""
    for round_number in range(warm_up + rounds):
        warming = round_number < warm_up
        for case in cases:
            for position in order_of_round(len(contestants), round_number):
                if not contestants[position].once or round_number == warm_up:
                    yield position, Turn(round_number, case, warming)


def measure_in_turns(
    contestants: Sequence[Contestant],
    *,
    cases: Sequence[str] = ("",),
    rounds: int = 5,
    warm_up: int = 1,
    closing_case: str | None = None,
    on_turn: Callable[[str, Turn, int, int], None] | None = None,
) -> Samples:
    """Opens all contestants, lets them take turns, closes them.

    Args:
        contestants: two or more to compare, or one alone.
        cases: what each contestant runs in each round; their measurements must have different names.
        rounds: measured rounds.
        warm_up: rounds before them whose numbers are thrown away.
        closing_case: asked of each contestant once at the end, after all rounds (memory at its peak).
        on_turn: told before each turn: contestant's name, turn, turns done, turns in all.

    Raises:
        HarnessError: nothing to measure, a name twice, the same measurement from two cases, or a contestant's failure.
    """
    names = [contestant.name for contestant in contestants]
    if not names or rounds < 1 or warm_up < 0 or not cases:
        raise HarnessError("nothing to measure: give at least one contestant, one case and one round")
    for kind, given in (("contestant", names), ("case", [*cases, *([closing_case] if closing_case else [])])):
        if twice := sorted({name for name in given if given.count(name) > 1}):
            raise HarnessError(f"{kind} named twice: {', '.join(twice)}")
    plan = list(turns(contestants, cases, rounds, warm_up))
    if closing_case is not None:
        last = Turn(warm_up + rounds, closing_case, warm_up=False)
        plan += [(position, last) for position in range(len(contestants))]

    samples = Samples()
    measured_by: dict[tuple[str, str], str] = {}
    with ExitStack() as stack:
        opened = [stack.enter_context(contestant.open()) for contestant in contestants]
        for done, (position, turn) in enumerate(plan):
            name = names[position]
            if on_turn is not None:
                on_turn(name, turn, done, len(plan))
            measurements = opened[position](turn)
            if turn.warm_up:
                continue
            for measurement in measurements:
                first = measured_by.setdefault((name, measurement), turn.case)
                if first != turn.case:
                    raise HarnessError(f"cases {first!r} and {turn.case!r} both measure {measurement!r}; rename one")
            samples.add(name, measurements)
    return samples
