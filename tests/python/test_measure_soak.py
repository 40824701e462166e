"""`bench soak`: what it makes of what its clients saw and the server held, and once for real on a tiny model."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hwledger_omlx.cli import app
from hwledger_omlx.errors import HarnessError
from hwledger_omlx.measure.soak_bench import Held, SoakBench
from hwledger_omlx.measure.soak_clients import Tally

STEADY = Held(resident_bytes=400 << 20, threads=20, blocks=10, under_way=0)


@pytest.mark.parametrize(
    ("errors", "end", "missed"),
    [
        ([], STEADY, set()),
        (["ReadError: "], STEADY, {"errors"}),
        ([], Held(421 << 20, 20, 9, 0), {"resident memory, end against middle"}),
        ([], Held(419 << 20, 21, 9, 0), {"threads more at the end than in the middle"}),
        ([], Held(300 << 20, 19, 9, 1), {"requests under way after all clients left"}),
    ],
)
def test_a_leak_misses_its_bar(errors: list[str], end: Held, missed: set[str]) -> None:
    tally = Tally(requests=10, tokens=200, ttft_s=[i / 100 for i in range(1, 101)], errors=errors)
    results = SoakBench(seconds=20).results(tally, [STEADY, STEADY, end])
    assert {each.name for each in results if each.met is False} == missed
    values = {each.name: each.value for each in results}
    assert values["tokens read"] == 10
    assert (values["TTFT, p50"], values["TTFT, p90"], values["TTFT, p99"]) == (0.51, 0.91, 1.0)


def test_a_bench_of_nothing_is_refused() -> None:
    for odd in (SoakBench(seconds=0), SoakBench(clients=0)):
        with pytest.raises(HarnessError, match="give at least"):
            odd.run()


def test_the_command_talks_to_a_server(tiny_model: Path) -> None:
    wanted = ["--seconds", "3", "--clients", "6", "--json"]
    done = CliRunner().invoke(app, ["bench", "soak", "--model", str(tiny_model), *wanted])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    values = {each["name"]: each["value"] for each in report["results"]}
    assert values["errors"] == 0, report["notes"]
    assert values["requests under way after all clients left"] == 0
    assert values["requests"] >= 6
    assert values["tokens read"] > 0
    assert values["resident memory, end"] > 1 << 20
