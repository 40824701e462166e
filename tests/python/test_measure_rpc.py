"""`bench rpc`, once for real with few messages."""

import json

import pytest
from typer.testing import CliRunner

from hwledger_omlx.cli import app
from hwledger_omlx.errors import HarnessError
from hwledger_omlx.measure.rpc_bench import RpcBench


def test_the_command_measures_both_directions() -> None:
    done = CliRunner().invoke(app, ["bench", "rpc", "--rounds", "1", "--requests", "2000", "--json"])
    assert done.exit_code == 0, done.output
    results = {each["name"]: each for each in json.loads(done.stdout)["results"]}
    barred = [each for each in results.values() if each["bar"]]
    assert [each["bar"] for each in barred] == [">= 20000"] * 3
    assert all(each["value"] > 0 for each in results.values())


def test_a_bench_of_nothing_is_refused() -> None:
    with pytest.raises(HarnessError, match="give at least 1 round"):
        RpcBench(rounds=0).run()
