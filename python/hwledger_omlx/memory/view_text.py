"""A memory report in a terminal: a bar of what the memory is taken by, the requests, and the layers. 80 columns do."""

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hwledger_omlx.cache.sizes import size_text
from hwledger_omlx.memory.records import LayerUse, ModelMemory, RequestMemory
from hwledger_omlx.memory.report import MemoryReport
from hwledger_omlx.memory.view_parts import Part, headline, parts, peak_text, said, sampling_text, short_format

STYLES = {
    "weights": "blue",
    "KV": "yellow",
    "state": "magenta",
    "activations": "green",
    "cache": "cyan",
    "free": "bright_black",
}
_BAR_CELLS = 60
_SIZE_CELLS = 8
_LAYER_BAR_CELLS = 8
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def text(report: MemoryReport) -> str:
    """As plain text."""
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(renderable(report))
    written = console.file
    assert isinstance(written, io.StringIO)  # noqa: S101  it was made above
    return written.getvalue()


def renderable(report: MemoryReport) -> RenderableType:
    """For rich."""
    lines: list[RenderableType] = [Text(headline(report), overflow="fold"), memory_bar(parts(report))]
    for model in report.models:
        lines += [Text(""), *_model(model)]
    return Group(*lines)


def memory_bar(held: Sequence[Part], cells: int = _BAR_CELLS) -> RenderableType:
    """The parts to scale, but for what is free, and a line of what they are."""
    taken = [part for part in held if part.name != "free" and part.nbytes]
    whole = sum(part.nbytes for part in taken) or 1
    bar, legend = Text(), Text()
    # Each part at least one cell wide: what is there is seen.
    widths = [max(1, round(cells * part.nbytes / whole)) for part in taken]
    for part, width in zip(taken, widths, strict=True):
        bar.append("█" * width, STYLES.get(part.name, ""))
    for part in held:
        legend.append("■ ", STYLES.get(part.name, ""))
        legend.append(f"{part.name} {size_text(part.nbytes)}   ")
    return Group(bar, legend)


def _model(model: ModelMemory) -> list[RenderableType]:
    line = (
        f"{model.model_id} at {model.kv_policy}: weights {said(model.weights_bytes)}, "
        f"KV {said(model.kv_allocated_bytes)} ({said(model.kv_used_bytes)} used), "
        f"activations {said(model.activations_bytes)}; {peak_text(model.peak)}"
    )
    lines: list[RenderableType] = [Text(line, overflow="fold")]
    if trouble := sampling_text(model):
        lines.append(Text(trouble, "yellow", overflow="fold"))
    if model.requests:
        lines.append(requests_table(model.requests))
    if model.layers:
        lines.append(layers_table(model.layers))
    return lines


def requests_table(requests: Sequence[RequestMemory]) -> Table:
    """A row for each."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("request", overflow="ellipsis", no_wrap=True, max_width=20)
    table.add_column("stage", no_wrap=True)
    for heading in ("prompt", "cached", "tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    has_state = any(each.state_bytes.value for each in requests)
    for heading in ("KV", "used", *(["state"] if has_state else []), "peak"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=_SIZE_CELLS)
    for each in requests:
        tokens = each.tokens.value
        table.add_row(
            Text(each.request_id or "(ended)"),
            each.stage,
            f"{each.prompt_tokens:,}",
            f"{each.cached_tokens:,}",
            "?" if tokens is None else f"{tokens:,}",
            said(each.kv_allocated_bytes),
            said(each.kv_used_bytes),
            *([said(each.state_bytes)] if has_state else []),
            "?" if each.peak is None else said(each.peak.bytes),
        )
    return table


def layers_table(layers: Sequence[LayerUse]) -> Table:
    """A row for each, with a bar of its bytes."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    has_state = any(each.state_bytes.value for each in layers)
    table.add_column("layer", justify="right", no_wrap=True, min_width=5)
    for heading, cells in (("cache", 18), ("K", 14), ("V", 14)):
        table.add_column(heading, overflow="ellipsis", no_wrap=True, max_width=cells)
    for heading in ("KV", "used", *(["state"] if has_state else [])):
        table.add_column(heading, justify="right", no_wrap=True, min_width=_SIZE_CELLS)
    table.add_column("", no_wrap=True)
    most = max((_nbytes(each) for each in layers), default=0)
    for each in layers:
        table.add_row(
            str(each.layer),
            Text(", ".join(each.cache_classes)),
            ", ".join(map(short_format, each.k_formats)),
            ", ".join(map(short_format, each.v_formats)),
            said(each.kv_allocated_bytes),
            said(each.kv_used_bytes),
            *([said(each.state_bytes)] if has_state else []),
            Text(_eighths(_LAYER_BAR_CELLS * _nbytes(each) / most if most else 0), STYLES["KV"]),
        )
    return table


def _nbytes(layer: LayerUse) -> int:
    return (layer.kv_allocated_bytes.value or 0) + (layer.state_bytes.value or 0)


def _eighths(cells: float) -> str:
    whole, rest = divmod(round(cells * 8), 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")
