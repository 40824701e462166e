"""What a bench or quality command promises, and what came of it: bars, comparisons, results.

Knows nothing of how a number was measured or where it is printed.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

from hwledger_omlx.errors import HarnessError

Better = Literal["higher", "lower"]
Quotient = Literal["value/against", "against/value"]
Of = Literal["ratio", "value"]
Side = Literal["at_least", "at_most"]


@dataclass(frozen=True, slots=True)
class Bar:
    """A limit on a result: on its ratio to what it is compared with, or on its value. The limit itself meets it."""

    of: Of
    side: Side
    limit: float

    @classmethod
    def ratio_at_least(cls, limit: float) -> Self:
        """`never slower than 0.97x the bare fork` is `Bar.ratio_at_least(0.97)`."""
        return cls("ratio", "at_least", limit)

    @classmethod
    def ratio_at_most(cls, limit: float) -> Self:
        """For a cost compared as value/against: `at most 1.5x one memcpy` is `Bar.ratio_at_most(1.5)`."""
        return cls("ratio", "at_most", limit)

    @classmethod
    def value_at_least(cls, limit: float) -> Self:
        """In the result's own unit: `recall of 0.99` is `Bar.value_at_least(0.99)`."""
        return cls("value", "at_least", limit)

    @classmethod
    def value_at_most(cls, limit: float) -> Self:
        """In the result's own unit: `KL at most 0.001 nats`, `0 blocks lost`."""
        return cls("value", "at_most", limit)

    def met_by(self, number: float) -> bool:
        """Whether `number`, a ratio or a value as `of` says, is on the right side of the limit."""
        return number >= self.limit if self.side == "at_least" else number <= self.limit

    @property
    def sign(self) -> str:
        """`>=` or `<=`."""
        return ">=" if self.side == "at_least" else "<="

    def __str__(self) -> str:
        """As the JSON has it: `>= 0.97x` is a bar on the ratio, `<= 0.001` one on the value."""
        return f"{self.sign} {self.limit:g}{'x' if self.of == 'ratio' else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One line that a report shall have: a measurement of one contestant, alone or against another's."""

    name: str
    measurement: str
    """Key in what the contestants' measurements are called."""
    unit: str
    better: Better
    contestant: str
    against: str | None = None
    """Name of the contestant it is compared with."""
    against_measurement: str | None = None
    """Key of the other's measurement where it has another name (a store's write against a memcpy)."""
    quotient: Quotient | None = None
    """How the ratio is formed. By default as "times as good": value/against where higher is better, against/value where
    lower is better, so that above 1 is always better. A cost (`at most 1.1x the data`) asks for value/against."""
    bar: Bar | None = None

    def __post_init__(self) -> None:
        if self.bar is not None and self.bar.of == "ratio" and self.against is None:
            raise HarnessError(f"{self.name!r} has a bar on its ratio but is compared with nothing; name `against`")

    @property
    def ratio_is(self) -> Quotient:
        """How the ratio is formed, the default filled in."""
        return self.quotient or ("value/against" if self.better == "higher" else "against/value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line of a report."""

    name: str
    value: float
    """Median over the rounds, in `unit`."""
    unit: str
    against: float | None = None
    """Median over the rounds of what it is compared with, in `unit`; None where it stands alone."""
    ratio: float | None = None
    """Median of the rounds' own ratios, formed as `ratio_is` says."""
    bar: Bar | None = None
    spread: tuple[float, float] | None = None
    """Smallest and largest value of the rounds, in `unit`."""
    ratio_spread: tuple[float, float] | None = None
    """Smallest and largest ratio of the rounds."""
    rounds: int = 1
    better: Better = "higher"
    ratio_is: Quotient = "value/against"
    contestant: str | None = None
    against_contestant: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is none.

        Raises:
            HarnessError: the bar is on a ratio that there is none of, since it would be a division by zero.
        """
        if self.bar is None:
            return None
        number = self.ratio if self.bar.of == "ratio" else self.value
        if number is None:
            raise HarnessError(f"{self.name!r} has the bar {self.bar} on its ratio, and the ratio is undefined")
        return self.bar.met_by(number)

    def as_json(self) -> dict[str, Any]:
        """The seven keys that every bench prints, then what explains them."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "against": self.against,
            "ratio": self.ratio,
            "bar": None if self.bar is None else str(self.bar),
            "met": self.met,
            "spread": None if self.spread is None else list(self.spread),
            "ratio_spread": None if self.ratio_spread is None else list(self.ratio_spread),
            "rounds": self.rounds,
            "better": self.better,
            "ratio_is": self.ratio_is,
            "contestant": self.contestant,
            "against_contestant": self.against_contestant,
        }
