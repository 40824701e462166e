"""Shows the dial of a policy, and what calibration measured: tables and bars in a terminal, a picture in a notebook.

A terminal of 80 columns is enough. Knows the views; nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hwledger_omlx.cache.sizes import size_text
from hwledger_omlx.kv.dial_svg import dial_svg
from hwledger_omlx.kv.dial_view import DialView, HeldPart, headline, scheme_of
from hwledger_omlx.kv.profile import Profile

_BAR_CELLS = 4
_WIDE_BAR_CELLS = 16
_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL_BITS = 16.0
_STYLES = {"16": "bright_black", "affine": "blue", "channel": "yellow", "rotated": "green"}


@dataclass(frozen=True)
class DialPicture:
    """A dial to look at: print it with rich, or leave it at the end of a notebook's cell."""

    view: DialView

    def __rich__(self) -> RenderableType:
        """As a terminal shows it."""
        return Group(Text(headline(self.view), overflow="fold"), dial_table(self.view))

    def _repr_svg_(self) -> str:
        return dial_svg(self.view)

    def _repr_html_(self) -> str:
        return f"<div>{dial_svg(self.view)}</div>"


def dial_table(view: DialView) -> Table:
    """One row a layer: both formats with a bar of their bits, bytes, and what was measured."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", justify="right", no_wrap=True)
    for side in ("K", "V"):
        table.add_column(side, no_wrap=True)
        table.add_column("bits", no_wrap=True)
    for heading in ("size", "KL", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in view.layers:
        cells: list[RenderableType] = [str(layer.layer)]
        for part in (layer.k, layer.v):
            cells += [Text(short_name(part.format)), _bits(part)] if part is not None else ["", Text("")]
        cells += [size_text(layer.nbytes) if layer.parts else "", _number(layer.kl, ".5f"), _number(layer.error, ".3f")]
        table.add_row(*cells)
    return table


def profile_table(profile: Profile) -> Table:
    """What calibration measured of each layer: the KL of formats that all parts have, and a bar of the coarsest's."""
    names = _shown_formats(profile)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(f"KL {short_name(name)}", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    worst = max((each.kl for _, _, each in profile.most_sensitive(names[-1])), default=0.0) if names else 0.0
    for number, layer in enumerate(profile.layers):
        for part in ("k", "v") if layer is not None else ():
            measured = layer.of(part) if layer is not None else {}
            cells: list[RenderableType] = [str(number) if part == "k" else "", part.upper()]
            cells += [_number(measured[name].kl if name in measured else None, ".5f") for name in names]
            share = measured[names[-1]].kl / worst if names and worst and names[-1] in measured else 0.0
            cells.append(Text(_bar(share, _WIDE_BAR_CELLS), style="red"))
            table.add_row(*cells)
    return table


def short_name(name: str) -> str:
    """`affine 4` for `affine:4:64`; other groups are said: `affine 4/32`."""
    scheme, *numbers = name.split(":")
    if not numbers:
        return "16 bit" if name == "16" else name
    group = f"/{numbers[1]}" if len(numbers) > 1 and numbers[1] != "64" else ""
    return f"{scheme} {numbers[0]}{group}"


def _bits(part: HeldPart) -> Text:
    bar = _bar(min(part.bits, _FULL_BITS) / _FULL_BITS, _BAR_CELLS)
    return Text.assemble((f"{part.bits:5.2f} ", ""), (bar, _STYLES[scheme_of(part.format)]))


def _bar(share: float, cells: int) -> str:
    whole, eighths = divmod(round(min(max(share, 0.0), 1.0) * cells * 8), 8)
    return ("█" * whole + (_EIGHTHS[eighths] if eighths else "")).ljust(cells)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _shown_formats(profile: Profile) -> Sequence[str]:
    """At most four that every part was measured at, the finest first."""
    parts = [set(layer.of(part)) for layer in profile.layers if layer is not None for part in ("k", "v")]
    parts = [names for names in parts if names]
    common = set.intersection(*parts) if parts else set()
    affine = [name for name in common if name.startswith("affine:")] or list(common)
    ranked = sorted(affine, key=lambda name: float(name.split(":")[1]), reverse=True)
    return ranked if len(ranked) <= 4 else [ranked[0], *ranked[-3:]]
