"""A report of results for people (a table) and for programs (JSON). Knows nothing of how they were measured."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hwledger_omlx.measure.bars import Result
from hwledger_omlx.measure.environment import Environment

# Largest first; a value takes the first that it reaches.
_SCALES = {
    "B": ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "B/s": ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")),
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
}


REPORT_VERSION = 1
"""Of the JSON: another number where what stood there means something else or is gone."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one run of a bench or quality command found."""

    command: str
    """That made it, such as `bench cache`."""
    title: str
    results: Sequence[Result]
    environment: Environment
    notes: Sequence[str] = ()
    """Sentences that a reader needs to understand the numbers; no paths."""

    @property
    def missed(self) -> list[Result]:
        """The results whose bar was missed."""
        return [result for result in self.results if result.met is False]

    def as_json(self) -> dict[str, Any]:
        """`{"report": "bench cache", "version": 1, "results": [...], "environment": {...}, "notes": [...]}`."""
        return {
            "report": self.command,
            "version": REPORT_VERSION,
            "results": [result.as_json() for result in self.results],
            "environment": self.environment.as_json(),
            "notes": list(self.notes),
        }

    def json_text(self) -> str:
        """The same as text; never NaN or Infinity, which JSON does not have."""
        return json.dumps(self.as_json(), indent=2, ensure_ascii=False, allow_nan=False)

    def print(self, *, as_json: bool = False, file: IO[str] | None = None, width: int | None = None) -> None:
        """Writes the report, by default to standard output.

        Args:
            as_json: JSON and nothing else.
            file: where to write.
            width: characters a line of the table may have; by default the terminal's, and enough where there is none.
        """
        console = Console(file=file, width=width)
        if as_json:
            console.file.write(self.json_text() + "\n")
            return
        if width is None and not console.is_terminal:
            # In a file or a pipe nothing needs to fit, and a table that was cut would lose numbers.
            console.width = 160
        console.print(self._table())
        for line in self._footer():
            console.print(line, highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        rounds = {result.rounds for result in self.results}
        table = Table(title=escape(self.title), box=box.SIMPLE_HEAD, title_justify="left")
        table.add_column("what", overflow="fold")
        for heading in ("value", "spread", "against", "ratio", "spread", "bar"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("", justify="left", no_wrap=True)
        if len(rounds) > 1:
            table.add_column("rounds", justify="right", no_wrap=True)
        for result in self.results:
            cells = [
                escape(result.name),
                quantity(result.value, result.unit),
                _spread(result),
                quantity(result.against, result.unit) if result.against is not None else "",
                f"{result.ratio:.3g}x" if result.ratio is not None else "",
                f"{result.ratio_spread[0]:.3g} .. {result.ratio_spread[1]:.3g}"
                if result.ratio_spread is not None and result.rounds > 1
                else "",
                _bar(result),
                {True: "[green]met[/]", False: "[bold red]MISSED[/]", None: ""}[result.met],
            ]
            if len(rounds) > 1:
                cells.append(str(result.rounds))
            table.add_row(*cells, style="red" if result.met is False else None)
        return table

    def _footer(self) -> list[str]:
        barred = [result for result in self.results if result.bar is not None]
        lines = []
        if self.missed:
            lines.append(
                f"[bold red]{len(self.missed)} of {len(barred)} bars MISSED[/]: {escape(self._missed_names())}"
            )
        elif barred:
            lines.append(f"[green]all {len(barred)} bars met[/]")
        if near := [result.name for result in self.missed if _some_round_met(result)]:
            lines.append(
                escape(
                    f"Some rounds did meet it: {'; '.join(near)}. Measure again on a quiet machine, with more rounds."
                )
            )
        lines += [escape(note) for note in (*self._reading(), *self.notes)]
        machine = self.environment
        lines.append(
            escape(
                f"{machine.cpu}, {machine.cores:g} cores, {machine.memory_bytes / 2**30:.0f} GiB, {machine.os}, "
                f"load {machine.load_average_1m:g} before"
            )
        )
        lines.append(
            escape(
                f"{machine.python}, MLX {machine.mlx} on {machine.device}, fork {machine.fork}, hwledger-omlx "
                f"{machine.hwledger_omlx}{f' ({machine.revision})' if machine.revision else ''}, {machine.date_utc}"
            )
        )
        return lines

    def _missed_names(self) -> str:
        return "; ".join(result.name for result in self.missed)

    def _reading(self) -> list[str]:
        """How to read the columns that are there."""
        lines = []
        if any(result.rounds > 1 for result in self.results):
            lines.append("Values and ratios are medians over the rounds; spreads are smallest to largest.")
        ratios = [result for result in self.results if result.ratio is not None]
        if any(not _is_cost(result) for result in ratios):
            lines.append("A ratio above 1 is better than what it is compared with, whichever way the value counts.")
        if costs := [result.name for result in ratios if _is_cost(result)]:
            lines.append(f"Here the ratio is a cost, and below 1 is better: {'; '.join(costs)}.")
        return lines


def _is_cost(result: Result) -> bool:
    return (result.better == "higher") != (result.ratio_is == "value/against")


def _some_round_met(result: Result) -> bool:
    if result.bar is None:
        return False
    rounds = result.ratio_spread if result.bar.of == "ratio" else result.spread
    return rounds is not None and any(result.bar.met_by(number) for number in rounds)


def _bar(result: Result) -> str:
    if result.bar is None:
        return ""
    if result.bar.of == "ratio":
        return str(result.bar)
    return f"{result.bar.sign} {quantity(result.bar.limit, result.unit)}"


def _spread(result: Result) -> str:
    """In the scale of the value beside it, whose unit goes for both."""
    if result.spread is None or result.rounds == 1:
        return ""
    factor, _ = _scale(result.value, result.unit)
    return " .. ".join(_digits(bound / factor) for bound in result.spread)


def quantity(value: float, unit: str) -> str:
    """Number and unit as a reader wants them: seconds and bytes scaled, three digits and no more."""
    factor, name = _scale(value, unit)
    return f"{_digits(value / factor)} {name}".rstrip()


def _scale(value: float, unit: str) -> tuple[float, str]:
    for factor, name in _SCALES.get(unit, ()):
        if abs(value) >= factor:
            return factor, name
    return 1.0, unit


def _digits(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 or number.is_integer() else f"{number:.3g}"
