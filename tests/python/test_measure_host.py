"""`bench host`: how the engine's stamps and the consumer's are put together, and where the program is looked for."""

import os
from pathlib import Path

import pytest

import hwledger_omlx as hw
from hwledger_omlx.measure.bars import Bar
from hwledger_omlx.measure.harness import Samples
from hwledger_omlx.measure.host_bench import HTTP, IN_PROCESS, RPC, HostBench, times
from hwledger_omlx.measure.program import find_host

ENGINE = [[tokens, 4 * tokens, 1_000_000 * tokens] for tokens in range(1, 9)]


def test_each_token_is_timed_against_its_own_stamp() -> None:
    consumed = [[tokens, 4 * tokens, at + 20_000] for tokens, _, at in ENGINE]
    assert times({"engine": ENGINE, "consumed": consumed}, by=0) == pytest.approx({"median_s": 20e-6, "p95_s": 20e-6})
    # A surface joins two tokens, and begins with a space of its own.
    joined = [[0, characters + 1, at + 300_000] for _, characters, at in ENGINE if characters != 8]
    assert times({"engine": ENGINE, "consumed": joined}, by=1) == pytest.approx({"median_s": 3e-4, "p95_s": 3e-4})


def test_tokens_that_are_not_the_engines_are_no_measurement() -> None:
    with pytest.raises(hw.HarnessError, match="of 8 outputs of the engine 1 came"):
        times({"engine": ENGINE, "consumed": [[0, 3 * n, n] for n in (1, 3, 5)] + [[0, 32, 9]]}, by=1)
    with pytest.raises(hw.HarnessError, match="no token came"):
        times({"engine": ENGINE, "consumed": []}, by=1)


def test_the_report_has_the_bar_and_the_ratios() -> None:
    samples = Samples()
    for name, median_s in ((IN_PROCESS, 20e-6), (HTTP, 400e-6), (RPC, 200e-6)):
        samples.add(name, {"median_s": median_s, "p95_s": 2 * median_s})
    first, second, *_ = HostBench().results(samples)
    assert (first.bar, first.met, first.ratio) == (Bar.value_at_most(50e-6), True, pytest.approx(20))
    assert second.ratio == pytest.approx(10)


def test_the_program_is_the_one_given_or_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "hwledger-omlx-host"
    with pytest.raises(hw.HarnessError, match="is no program"):
        find_host(program)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_host(program) == program
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_host(None) == program
    with pytest.raises(hw.HarnessError, match="at least 1 round and 8 tokens"):
        HostBench(rounds=0).run()
