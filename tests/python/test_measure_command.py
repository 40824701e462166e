"""The command line of `bench engine`, with a report from a list."""

import json

import pytest
from typer.testing import CliRunner

from hwledger_omlx.cli.bench import bench_app
from hwledger_omlx.measure import Bar, Report, Result, environment
from hwledger_omlx.measure.engine_bench import EngineBench


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[EngineBench]:
    benches: list[EngineBench] = []
    slow = Result(
        name="decode", value=9.0, unit="tokens/s", against=10.0, ratio=0.9, bar=Bar.ratio_at_least(0.97), rounds=3
    )
    report = Report("bench", "a bench", [slow], environment())

    def run(self: EngineBench, on_turn: object) -> Report:
        benches.append(self)
        return report

    monkeypatch.setattr(EngineBench, "run", run)
    return benches


def test_table(asked: list[EngineBench]) -> None:
    done = CliRunner().invoke(bench_app, ["engine", "--model", "m", "--concurrency", "2, 3", "--rounds", "3"])
    assert done.exit_code == 0, done.output
    assert "MISSED" in done.stdout
    assert (asked[0].model, tuple(asked[0].concurrency), asked[0].rounds) == ("m", (2, 3), 3)


def test_json_is_all_of_standard_output(asked: list[EngineBench]) -> None:
    done = CliRunner().invoke(bench_app, ["engine", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["results"][0]["met"] is False


def test_check_makes_a_missed_bar_an_exit_code(asked: list[EngineBench]) -> None:
    assert CliRunner().invoke(bench_app, ["engine", "--check", "--json"]).exit_code == 1


def test_bad_options(asked: list[EngineBench]) -> None:
    for arguments in (["--concurrency", "one"], ["--rounds", "0"], ["--max-tokens", "1"]):
        assert CliRunner().invoke(bench_app, ["engine", *arguments]).exit_code == 2
    assert not asked
