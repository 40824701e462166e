"""Turns, medians, ratios and bars, with contestants that answer from a list."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from hwledger_omlx.errors import HarnessError
from hwledger_omlx.measure import Bar, Comparison, Contestant, Measure, Result, Samples, Turn, measure_in_turns
from hwledger_omlx.measure.harness import order_of_round


class Log:
    """Contestants that write down their turns and answer numbers of the turn."""

    def __init__(self) -> None:
        self.turns: list[str] = []
        self.opened: list[str] = []

    def contestant(self, name: str, factor: float = 1.0, *, once: bool = False) -> Contestant:
        def measure(turn: Turn) -> Mapping[str, float]:
            self.turns.append(f"{name}{turn.round}{turn.case}{'w' if turn.warm_up else ''}")
            return {f"speed{turn.case}": factor * (turn.round + 1)}

        @contextmanager
        def opened() -> Iterator[Measure]:
            self.opened.append(f"+{name}")
            yield measure
            self.opened.append(f"-{name}")

        return Contestant(name, opened, once)


def compared(ours: list[float], other: list[float] | None, **given: object) -> Result:
    samples = Samples({"ours": {"x": ours}} | ({"other": {"x": other}} if other is not None else {}))
    fields = {"name": "x", "measurement": "x", "unit": "s", "better": "higher", "contestant": "ours"} | given
    return samples.compare(Comparison(against=None if other is None else "other", **fields))  # type: ignore[arg-type]


def test_two_contestants_take_turns_in_changing_order() -> None:
    log = Log()
    measure_in_turns([log.contestant("A"), log.contestant("B")], rounds=3, warm_up=1)
    assert log.turns == ["A0w", "B0w", "B1", "A1", "B2", "A2", "A3", "B3"]


def test_three_contestants_take_every_order_once() -> None:
    orders = [tuple(order_of_round(3, number)) for number in range(6)]
    assert len(set(orders)) == 6
    assert order_of_round(3, 6) == order_of_round(3, 0)


def test_cases_are_interleaved_within_a_round_and_all_is_opened_first() -> None:
    log = Log()
    contestants = [log.contestant("A"), log.contestant("B")]
    samples = measure_in_turns(contestants, cases=["p", "q"], rounds=2, warm_up=0, closing_case="end")
    assert log.turns == ["A0p", "B0p", "A0q", "B0q", "B1p", "A1p", "B1q", "A1q", "A2end", "B2end"]
    assert log.opened == ["+A", "+B", "-B", "-A"]
    assert samples.of("A", "speedp") == [1.0, 2.0]
    assert samples.of("B", "speedend") == [3.0]


def test_warm_up_is_not_counted() -> None:
    samples = measure_in_turns([Log().contestant("A")], rounds=2, warm_up=2)
    assert samples.of("A", "speed") == [3.0, 4.0]


def test_a_deterministic_contestant_is_measured_once_and_paired_with_every_round() -> None:
    log = Log()
    samples = measure_in_turns([log.contestant("A"), log.contestant("B", once=True)], rounds=3, warm_up=1)
    assert [turn for turn in log.turns if turn.startswith("B")] == ["B1"]
    asked = Comparison(name="x", measurement="speed", unit="", better="higher", contestant="A", against="B")
    assert samples.compare(asked).ratio_spread == (1.0, 2.0)


def test_progress_is_told_before_each_turn() -> None:
    told: list[tuple[str, int, int]] = []
    measure_in_turns(
        [Contestant.of("A", lambda turn: {"x": 1.0})],
        rounds=2,
        warm_up=1,
        on_turn=lambda name, turn, done, total: told.append((name, done, total)),
    )
    assert told == [("A", 0, 3), ("A", 1, 3), ("A", 2, 3)]


def test_values_are_medians_with_their_extremes() -> None:
    result = compared([5.0, 1.0, 2.0], None)
    assert (result.value, result.spread, result.rounds) == (2.0, (1.0, 5.0), 3)
    assert (result.against, result.ratio, result.met) == (None, None, None)


def test_the_ratio_is_the_median_of_the_rounds_ratios() -> None:
    # A neighbour halves the speed of both in the second round and in the third; the ratio of the medians would be 0.6.
    result = compared([10.0, 4.0, 6.0], [10.0, 5.0, 10.0])
    assert (result.value, result.against) == (6.0, 10.0)
    assert result.ratio == pytest.approx(0.8)
    assert result.ratio_spread == pytest.approx((0.6, 1.0))


def test_above_one_is_better_whichever_way_the_value_counts() -> None:
    assert compared([2.0], [1.0], better="higher").ratio == 2.0
    assert compared([2.0], [1.0], better="lower").ratio == 0.5
    assert compared([2.0], [1.0], better="lower", quotient="value/against").ratio == 2.0


@pytest.mark.parametrize(
    ("bar", "given", "met"),
    [
        (Bar.ratio_at_least(0.97), {"better": "higher"}, False),
        (Bar.ratio_at_least(0.97), {"better": "lower"}, True),
        (Bar.ratio_at_least(0.95), {"better": "higher"}, True),
        (Bar.ratio_at_most(0.95), {"better": "lower", "quotient": "value/against"}, True),
        (Bar.ratio_at_most(0.94), {"better": "lower", "quotient": "value/against"}, False),
        (Bar.value_at_most(95.0), {}, True),
        (Bar.value_at_most(94.0), {}, False),
        (Bar.value_at_least(96.0), {}, False),
        (Bar.value_at_least(95.0), {}, True),
        (None, {}, None),
    ],
)
def test_bars(bar: Bar | None, given: dict[str, object], met: bool | None) -> None:
    assert compared([95.0], [100.0], bar=bar, **given).met is met


def test_an_absolute_bar_of_nothing_lost() -> None:
    assert compared([0.0], None, bar=Bar.value_at_most(0)).met is True
    assert compared([0.0, 1.0, 1.0], None, bar=Bar.value_at_most(0)).met is False


def test_a_bar_on_a_ratio_needs_something_to_compare_with() -> None:
    with pytest.raises(HarnessError, match="compared with nothing"):
        compared([1.0], None, bar=Bar.ratio_at_least(1))


def test_a_ratio_to_zero_is_undefined_and_no_bar_can_be_on_it() -> None:
    assert compared([1.0], [0.0]).ratio is None
    with pytest.raises(HarnessError, match="undefined"):
        _ = compared([1.0], [0.0], bar=Bar.ratio_at_least(1)).met


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_measurement_must_be_a_number(number: float) -> None:
    with pytest.raises(HarnessError, match="no number"):
        measure_in_turns([Contestant.of("A", lambda turn: {"x": number})], rounds=1)


def test_a_missing_measurement_names_those_there_are() -> None:
    samples = Samples({"A": {"x": [1.0]}})
    with pytest.raises(HarnessError, match="it measured: x"):
        samples.of("A", "y")
    with pytest.raises(HarnessError, match="there are: A"):
        samples.of("B", "x")


def test_two_cases_may_not_measure_the_same() -> None:
    with pytest.raises(HarnessError, match="both measure 'x'"):
        measure_in_turns([Contestant.of("A", lambda turn: {"x": 1.0})], cases=["p", "q"])


@pytest.mark.parametrize("given", [{"rounds": 0}, {"warm_up": -1}, {"cases": ()}])
def test_nothing_to_measure(given: dict[str, object]) -> None:
    with pytest.raises(HarnessError, match="nothing to measure"):
        measure_in_turns([Contestant.of("A", lambda turn: {})], **given)  # type: ignore[arg-type]


def test_names_are_given_once() -> None:
    twice = [Contestant.of("A", lambda turn: {"x": 1.0})] * 2
    with pytest.raises(HarnessError, match="contestant named twice: A"):
        measure_in_turns(twice)


def test_rounds_that_do_not_pair() -> None:
    with pytest.raises(HarnessError, match="cannot pair 2 rounds with 3"):
        compared([1.0, 1.0], [1.0, 1.0, 1.0])
