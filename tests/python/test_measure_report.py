"""What a report prints: the JSON's keys, a table in which a missed bar is plain, an environment without paths."""

import io
import json
import os
from pathlib import Path

import pytest

from hwledger_omlx.measure import Bar, Environment, Report, Result, environment
from hwledger_omlx.measure.report import quantity

HERE = Environment(
    cpu="A CPU",
    cores=2.0,
    memory_bytes=8 * 2**30,
    os="Linux 6 x86_64",
    python="CPython 3.11.7",
    mlx="0.32.3",
    device="cpu",
    fork="flyto-mlx 0.7.0",
    hwledger_omlx="0.1.0",
    revision="abc",
    load_average_1m=0.5,
    date_utc="2026-01-01T00:00:00+00:00",
)


def result(name: str, ratio: float | None, bar: Bar | None, **given: object) -> Result:
    fields: dict[str, object] = {"value": 10.0, "unit": "tokens/s", "against": None if ratio is None else 10.0 / ratio}
    return Result(name=name, ratio=ratio, bar=bar, **(fields | given))  # type: ignore[arg-type]


def printed(*results: Result, notes: tuple[str, ...] = ()) -> str:
    out = io.StringIO()
    Report("bench", "a bench", results, HERE, notes).print(file=out)
    return out.getvalue()


def test_json_has_the_seven_keys_and_the_environment() -> None:
    out = io.StringIO()
    results = [
        result("a", 1.0, Bar.ratio_at_least(0.97)),
        result("b", 0.5, Bar.ratio_at_least(0.97)),
        result("c", None, None),
    ]
    Report("bench", "a bench", results, HERE).print(as_json=True, file=out)
    read = json.loads(out.getvalue())
    assert {"results", "environment"} <= read.keys()
    for each in read["results"]:
        assert {"name", "value", "unit", "against", "ratio", "bar", "met"} <= each.keys()
    assert [each["met"] for each in read["results"]] == [True, False, None]
    assert [each["bar"] for each in read["results"]] == [">= 0.97x", ">= 0.97x", None]
    assert read["environment"]["cpu"] == "A CPU"


def test_a_missed_bar_is_plain_without_colour() -> None:
    text = printed(result("fast", 1.1, Bar.ratio_at_least(0.97)), result("slow", 0.5, Bar.ratio_at_least(0.97)))
    assert "\x1b" not in text
    row = {name: line for line in text.splitlines() for name in ("fast", "slow") if line.strip().startswith(name)}
    assert "MISSED" in row["slow"]
    assert "met" in row["fast"]
    assert "MISSED" not in row["fast"]
    assert "1 of 2 bars MISSED: slow" in text


def test_all_met() -> None:
    text = printed(result("fast", 1.1, Bar.ratio_at_least(0.97)))
    assert "all 1 bars met" in text
    assert "MISSED" not in text


def test_a_miss_within_the_noise_is_named() -> None:
    bar = Bar.ratio_at_least(0.97)
    assert "Some rounds did meet it: near" in printed(result("near", 0.96, bar, ratio_spread=(0.9, 1.1), rounds=3))
    assert "Some rounds" not in printed(result("far", 0.5, bar, ratio_spread=(0.4, 0.6), rounds=3))


def test_no_bars_no_verdict() -> None:
    text = printed(result("c", None, None))
    assert "bars" not in text
    assert "met" not in text.split("A CPU")[0]


def test_a_cost_is_said_to_be_one() -> None:
    cost = result("save", 1.2, Bar.ratio_at_most(1.5), better="lower", ratio_is="value/against")
    text = printed(cost)
    assert "<= 1.5x" in text
    assert "Here the ratio is a cost, and below 1 is better: save." in text
    assert "A ratio above 1 is better" not in text


def test_names_and_notes_are_text_and_no_markup() -> None:
    text = printed(result("list[int]", None, None), notes=("see [red]this[/red]",))
    assert "list[int]" in text
    assert "see [red]this[/red]" in text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0412, "s", "41.2 ms"),
        (0.0000005, "s", "500 ns"),
        (12.34, "s", "12.3 s"),
        (0.0, "s", "0 s"),
        (209e6, "B", "209 MB"),
        (1.5e9, "B/s", "1.5 GB/s"),
        (12345.6, "tokens/s", "12,346 tokens/s"),
        (0.00071, "nats", "0.00071 nats"),
        (1.0, "", "1"),
    ],
)
def test_quantities(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_the_environment_names_the_machine_and_no_place_on_it() -> None:
    here = environment().as_json()
    assert here["cores"] >= 1
    assert here["memory_bytes"] > 0
    assert here["cpu"]
    assert here["date_utc"].endswith("+00:00")
    text = json.dumps(here)
    for place in (str(Path.home()), str(Path.cwd()), str(Path(__file__).parent), os.uname().nodename):
        assert len(place) < 2 or place not in text
    assert not any(str(value).startswith("/") for value in here.values())


def test_the_fork_in_use_may_be_told() -> None:
    assert environment(fork="checkout 0.3.6").fork == "checkout 0.3.6"
