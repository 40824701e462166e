"""The report of `bench kv`: beside the bars a table of every point, as the README has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from rich import box
from rich.console import Console
from rich.table import Table

from hwledger_omlx.measure.kv_quality import Measurement
from hwledger_omlx.measure.report import Report


@dataclass(frozen=True, slots=True)
class KvReport(Report):
    """A report with the points of its quality part."""

    points: Sequence[Measurement] = ()

    def as_json(self) -> dict[str, Any]:
        """As of any report, and `"points": [...]`."""
        return {**Report.as_json(self), "points": [each.as_json() for each in self.points]}

    def print(self, *, as_json: bool = False, file: IO[str] | None = None, width: int | None = None) -> None:
        """Writes the points, then what `Report` does."""
        if self.points and not as_json:
            console = Console(file=file, width=width)
            if width is None and not console.is_terminal:
                console.width = 160
            console.print(points_table(self.points))
        Report.print(self, as_json=as_json, file=file, width=width)


def points_table(points: Sequence[Measurement]) -> Table:
    """One row a point; perplexity as its change from the first, which is 16 bit."""
    table = Table(title="quality of a model by the format of its keys and values", box=box.SIMPLE_HEAD)
    table.title_justify = "left"
    table.add_column("held")
    for heading in ("bits", "bytes", "perplexity", "KL, nats", "worst KL", "top-1", "recall"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in points:
        change = each.perplexity / points[0].perplexity - 1
        table.add_row(
            each.point.name,
            f"{each.bits_per_number:.2f}",
            f"{each.share:.1%}",
            f"{each.perplexity:.3f}" if each is points[0] else f"{change:+.2%}",
            "" if each is points[0] else f"{each.mean_kl:.5f}",
            "" if each is points[0] else f"{each.max_kl:.2f}",
            "" if each is points[0] else f"{each.top1:.2%}",
            "" if each.recalled is None else f"{each.recalled[0]}/{each.recalled[1]}",
            end_section=each is points[0] or (each.point.bits, each.point.side) == (2, "V"),
        )
    return table
