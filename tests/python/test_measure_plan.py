"""`bench plan`: what it says of architectures that are as predicted, that cannot be built, and that are not."""

import pytest

from hwledger_omlx.errors import HarnessError
from hwledger_omlx.measure import plan_bench
from hwledger_omlx.measure.harness import Turn
from hwledger_omlx.measure.plan_architectures import architectures, without_configuration
from hwledger_omlx.measure.plan_bench import PlanBench
from hwledger_omlx.measure.plan_caches import Checked
from hwledger_omlx.measure.plan_peak import Peak


def test_every_architecture_of_mlx_lm_has_a_configuration() -> None:
    assert without_configuration() == []
    assert len(architectures()) > 100


def test_a_bench_of_two_architectures() -> None:
    turns: list[str] = []
    bench = PlanBench(parts=["caches"], only_architectures=["llama", "mamba2"])
    report = bench.run(lambda name, _turn, _done, _total: turns.append(name))
    assert turns == ["llama", "mamba2"]
    assert report.missed == []
    assert report.results[0].value == 2
    kinds = [result.name for result in report.results if result.bar is not None]
    assert any("gqa" in name for name in kinds)
    assert any("ssm" in name for name in kinds)
    assert report.as_json()["report"] == "bench plan"


def test_what_is_off_misses_the_bar_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "llama": Checked("llama", ("gqa",), 3, ["mlx_lm at 1+0, cache 0: 1 bytes predicted, 2 held"]),
        "olmo": Checked("olmo", failure="a package is missing"),
    }
    monkeypatch.setattr(plan_bench, "check", lambda architecture: found[architecture.name])
    report = PlanBench(parts=["caches"], only_architectures=["llama", "olmo"]).run()
    assert [result.value for result in report.missed] == [1]
    assert any(note.startswith("OFF: llama") for note in report.notes)
    assert any(note.startswith("Not compared: olmo: a package") for note in report.notes)


def test_peaks_of_the_engine_are_near_their_plan() -> None:
    turns: list[Turn] = []
    results, notes = Peak(rounds=1, prompt_tokens=[300]).run(lambda _name, turn, _done, _total: turns.append(turn))
    assert [turn.warm_up for turn in turns] == [True, False, True, False]
    ratios = [result.ratio for result in results if result.ratio is not None]
    assert len(ratios) == 2
    assert all(0.8 < ratio < 1.2 for ratio in ratios)
    assert all(result.met for result in results if result.bar is not None)
    assert notes


@pytest.mark.parametrize(
    ("options", "says"),
    [({"parts": ["none"]}, "no part none"), ({"rounds": 0}, "1 round"), ({"only_architectures": ["x"]}, "no arch")],
)
def test_impossible_options_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(HarnessError, match=says):
        PlanBench(**options).run()  # type: ignore[arg-type]
