"""`bench memory`: its turns and bars with a worker that answers from a list, and once for real on a tiny model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hwledger_omlx.cli import app
from hwledger_omlx.errors import HarnessError
from hwledger_omlx.fork import probe_model
from hwledger_omlx.measure.memory_bench import MemoryBench
from hwledger_omlx.measure.prompts import Prompts


@pytest.mark.parametrize(("share", "met"), [(0.009, True), (0.011, False)])
def test_both_take_turns_and_the_bar_is_on_the_share(tmp_path: Path, share: float, met: bool) -> None:
    asked: list[tuple[bool, str, int]] = []

    def ask(request: Mapping[str, Any]) -> dict[str, float]:
        asked.append((request["sampled"], request["kv"], len(request["prompts"])))
        return {"step_s": 0.02 if request["sampled"] else 0.01, "hooks_share": share, "sample_s": 1e-4}

    bench = MemoryBench(rounds=2, concurrency=(1, 3), policies=("16", "8"))
    results = bench.results(bench.measure(ask, Prompts(probe_model.write(tmp_path / "model"))))
    assert len(asked) == 3 * 4 * 2
    assert sorted(set(asked)) == [(sampled, kv, n) for sampled in (False, True) for kv in ("16", "8") for n in (1, 3)]
    barred = [each for each in results if each.bar is not None]
    assert [each.met for each in barred] == [met] * 4
    steps = [each for each in results if each.name.startswith("a step")]
    assert [each.ratio for each in steps] == [2.0] * 4


def test_a_bench_of_nothing_is_refused() -> None:
    for odd in (MemoryBench(rounds=0), MemoryBench(concurrency=()), MemoryBench(max_tokens=1)):
        with pytest.raises(HarnessError, match="give at least"):
            odd.run()


def test_the_command_measures_a_model(tiny_model: Path) -> None:
    wanted = ["--rounds", "1", "--concurrency", "2", "--kv", "8", "--max-tokens", "40", "--json"]
    done = CliRunner().invoke(app, ["bench", "memory", "--model", str(tiny_model), *wanted])
    assert done.exit_code == 0, done.output
    share, step, sample = json.loads(done.stdout)["results"]
    assert share["name"] == "the hooks' share of decoding, 2 requests, KV at 8"
    assert 0 < share["value"] < 1
    assert step["value"] > 0
    assert step["against"] > 0
    assert sample["value"] > 0
