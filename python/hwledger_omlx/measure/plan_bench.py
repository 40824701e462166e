"""`bench plan`: the planner against the truth, part by part, in one run and one report.

Joins what `plan_caches.py` and `plan_peak.py` measure. Measures nothing itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hwledger_omlx.errors import HarnessError
from hwledger_omlx.measure.bars import Bar, Result
from hwledger_omlx.measure.engine_bench import OnTurn
from hwledger_omlx.measure.environment import environment
from hwledger_omlx.measure.harness import Turn
from hwledger_omlx.measure.plan_architectures import architectures, without_configuration
from hwledger_omlx.measure.plan_caches import TOKENS, Checked, check
from hwledger_omlx.measure.plan_peak import Peak
from hwledger_omlx.measure.report import Report

PARTS = ("caches", "peak")
_ARCHITECTURES_AT_LEAST = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanBench:
    """What to measure."""

    parts: Sequence[str] = PARTS
    """Of `PARTS`."""
    only_architectures: Sequence[str] = ()
    """Of part caches; none for all that mlx-lm has."""
    rounds: int = 3
    """Of part peak; the other is deterministic."""

    def run(self, on_turn: OnTurn | None = None) -> Report:
        """Measures, and returns the report.

        Raises:
            HarnessError: impossible options, or a contestant failed.
        """
        self._check()
        around = environment()
        results: list[Result] = []
        notes: list[str] = []
        if "caches" in self.parts:
            checked = self._checked(on_turn)
            results += _results(checked, all_of_them=not self.only_architectures)
            notes += _notes(checked)
        if "peak" in self.parts:
            more, said = Peak(rounds=self.rounds).run(on_turn)
            results += more
            notes += said
        return Report("bench plan", "the planner against the truth", results, around, notes)

    def _checked(self, on_turn: OnTurn | None) -> list[Checked]:
        wanted = [
            each for each in architectures() if not self.only_architectures or each.name in self.only_architectures
        ]
        checked = []
        for place, architecture in enumerate(wanted):
            if on_turn is not None:
                on_turn(architecture.name, Turn(0, "", warm_up=False), place, len(wanted))
            checked.append(check(architecture))
        return checked

    def _check(self) -> None:
        if not self.parts or (unknown := [part for part in self.parts if part not in PARTS]):
            what = f"no part {', '.join(unknown)}" if self.parts else "no part named"
            raise HarnessError(f"{what}; there are: {', '.join(PARTS)}")
        if self.rounds < 1:
            raise HarnessError("give at least 1 round")
        known = {architecture.name for architecture in architectures()}
        if unknown := [name for name in self.only_architectures if name not in known]:
            raise HarnessError(f"no architecture {', '.join(unknown)}")


def _results(checked: Sequence[Checked], *, all_of_them: bool) -> list[Result]:
    compared = [each for each in checked if not each.failure]
    exact = [each for each in compared if not each.wrong]
    results = [
        Result(
            name="architectures whose caches and weights are as predicted",
            value=float(len(exact)),
            unit="",
            against=float(len(checked)),
            bar=Bar.value_at_least(_ARCHITECTURES_AT_LEAST) if all_of_them else None,
            contestant="planner",
            against_contestant="mlx-lm",
        ),
        Result(
            name="caches compared, of all architectures and lengths",
            value=float(sum(each.caches for each in compared)),
            unit="",
            contestant="planner",
        ),
    ]
    kinds = sorted({kind for each in compared for kind in each.attention})
    for kind in kinds:
        having = [each for each in compared if kind in each.attention]
        wrong = sum(len(each.wrong) for each in having)
        results.append(
            Result(
                name=f"numbers off, of {len(having)} architecture(s) with {kind.replace('_', ' ')} layers",
                value=float(wrong),
                unit="",
                bar=Bar.value_at_most(0),
                better="lower",
                contestant="planner",
            )
        )
    return results


def _notes(checked: Sequence[Checked]) -> list[str]:
    lengths = ", ".join(f"{tokens:,}" for tokens in TOKENS)
    notes = [
        f"Caches: small models of mlx-lm's architectures, random weights in files; bytes of each cache after {lengths} "
        "tokens and after 255 and 3 decoded ones, in mlx-lm's caches and in ours, and bytes of the weights loaded."
    ]
    exact = [each.name for each in checked if not each.failure and not each.wrong]
    notes.append(f"As predicted: {', '.join(exact)}.")
    notes += [f"Not compared: {each.name}: {each.failure}" for each in checked if each.failure]
    notes += [f"Known: {each.name}: {remark}" for each in checked for remark in each.remarks]
    notes += [f"OFF: {each.name}: {'; '.join(each.wrong[:4])}" for each in checked if each.wrong]
    if missing := without_configuration():
        notes.append(f"Modules of mlx-lm without a configuration here: {', '.join(missing)}.")
    return notes
