"""What `hwledger-omlx top` shows of a process, and how its keys change that. Knows no terminal."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from hwledger_omlx.cache.sizes import size_text
from hwledger_omlx.memory.processes import Published
from hwledger_omlx.memory.records import History, LayerUse, ModelMemory, RequestMemory
from hwledger_omlx.memory.view_parts import parts, peak_text, said, sampling_text
from hwledger_omlx.memory.view_text import STYLES, layers_table, memory_bar

_SPARKS = " ▁▂▃▄▅▆▇█"
_STAGES = {"decode": "green", "prefill": "blue", "waiting": "bright_black"}
KEYS = "q quit  s sort by the next column  r reverse  tab next process  up/down layers"

Value = str | int
_COLUMNS: tuple[tuple[str, Callable[[RequestMemory], Value]], ...] = (
    ("request", lambda each: each.request_id),
    ("stage", lambda each: each.stage),
    ("policy", lambda each: each.kv_policy),
    ("prompt", lambda each: each.prompt_tokens),
    ("cached", lambda each: each.cached_tokens),
    ("tokens", lambda each: each.tokens.value or 0),
    ("KV", lambda each: each.kv_allocated_bytes.value or 0),
    ("used", lambda each: each.kv_used_bytes.value or 0),
    ("state", lambda each: each.state_bytes.value or 0),
    ("peak", lambda each: _peak(each) or 0),
)
_BYTES = {"KV", "used", "state", "peak"}
_LEFT_OUT = ("policy", "peak", "cached", "used", "state", "prompt", "tokens", "stage")
"""Columns that a narrow terminal has no room for, the first to go first. The one that is sorted by stays."""
_RULER = Console(width=1000)
"""Measures tables: wider than any."""
COLUMN_NAMES = tuple(name for name, _ in _COLUMNS)


@dataclass(slots=True)
class TopView:
    """The state of the screen."""

    pid: int | None = None
    """Of the process that is shown; None for the first."""
    sort: str = "KV"
    """One of `COLUMN_NAMES`."""
    reverse: bool = True
    scrolled: int = 0
    """Layers above the first one shown."""
    processes: Sequence[Published] = field(default_factory=tuple)

    @property
    def shown(self) -> Published | None:
        """The process on the screen."""
        chosen = [each for each in self.processes if each.pid == self.pid]
        return next(iter(chosen or self.processes), None)

    def next_sort(self, step: int = 1) -> None:
        """Sorts by another column; numbers the largest first."""
        self.sort = COLUMN_NAMES[(COLUMN_NAMES.index(self.sort) + step) % len(COLUMN_NAMES)]
        self.reverse = self.sort not in {"request", "stage", "policy"}

    def next_process(self) -> None:
        """Shows the next one."""
        pids = [each.pid for each in self.processes]
        shown = self.shown
        if shown is not None:
            self.pid = pids[(pids.index(shown.pid) + 1) % len(pids)]
            self.scrolled = 0

    def scroll(self, layers: int) -> None:
        """Moves the layers."""
        most = max((len(model.layers) for model in self.shown.report.models), default=0) if self.shown else 0
        self.scrolled = min(max(0, self.scrolled + layers), max(0, most - 1))

    def draw(self, width: int, height: int) -> RenderableType:
        """The screen."""
        shown = self.shown
        if shown is None:
            return Group(
                Text("no engine and no server of hwledger-omlx is running", "yellow"),
                Text("start one; it is shown as soon as its model is loaded"),
            )
        report = shown.report
        lines: list[RenderableType] = [*self._processes(shown, width), memory_bar(parts(report), max(10, width - 2))]
        # Each model its share of the lines that are left for layers.
        used = 7 + sum(9 + len(model.requests) for model in report.models)
        room = max(3, (height - used) // max(1, len(report.models)))
        for model in report.models:
            lines += self._model(model, width, room)
        return Group(*lines)

    def _processes(self, shown: Published, width: int) -> list[RenderableType]:
        report = shown.report
        about = Text(f"pid {shown.pid} ", "bold")
        about.append(shown.command[: max(0, width - 14)], "dim")
        if shown.late:
            about.append(f"  no answer for {shown.age_s:.0f} s", "bold red")
        faults, pages = report.process.major_faults_per_s.value, report.store.page_faults_per_s.value
        second = Text(
            f"MLX {said(report.mlx.active_bytes)}, peak {said(report.mlx.peak_bytes)}  "
            f"process {said(report.process.footprint_bytes)}  hot tier {said(report.store.hot_bytes)}  "
            f"restored {said(report.store.restored_bytes)}  faults {_rate(faults)}, SSD {_rate(pages)}",
            overflow="ellipsis",
            no_wrap=True,
        )
        lines: list[RenderableType] = [about, second]
        if len(self.processes) > 1:
            pids = Text("processes  ")
            for each in self.processes:
                pids.append(f" {each.pid} ", "reverse" if each.pid == shown.pid else "")
            lines.append(pids)
        return lines

    def _model(self, model: ModelMemory, width: int, room: int) -> list[RenderableType]:
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(model.model_id, "bold cyan")
        head.append(
            f" at {model.kv_policy}   weights {said(model.weights_bytes)}   KV {said(model.kv_allocated_bytes)}, "
            f"{said(model.kv_used_bytes)} used   activations {said(model.activations_bytes)}"
        )
        lines: list[RenderableType] = [Text(""), head, Text(peak_text(model.peak), no_wrap=True, overflow="ellipsis")]
        if trouble := sampling_text(model):
            lines.append(Text(trouble, "yellow", no_wrap=True, overflow="ellipsis"))
        lines += _sparks(model.history, width)
        lines.append(self._requests(model.requests, width))
        layers = self._layers(model.layers, room)
        if layers:
            lines.append(layers_table(layers))
        return lines

    def _layers(self, layers: Sequence[LayerUse], room: int) -> Sequence[LayerUse]:
        start = min(self.scrolled, max(0, len(layers) - room))
        return layers[start : start + room]

    def _requests(self, requests: Sequence[RequestMemory], width: int) -> RenderableType:
        if not requests:
            return Text("no requests", "dim")
        has_state = any(each.state_bytes.value for each in requests)
        left_out = set() if has_state or self.sort == "state" else {"state"}
        table = self._requests_table(requests, left_out)
        for name in _LEFT_OUT:
            if Measurement.get(_RULER, _RULER.options, table).maximum <= width:
                break
            if name != self.sort:
                left_out.add(name)
                table = self._requests_table(requests, left_out)
        return table

    def _requests_table(self, requests: Sequence[RequestMemory], left_out: Set[str]) -> Table:
        columns = [(name, read) for name, read in _COLUMNS if name not in left_out]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        value = dict(_COLUMNS)[self.sort]
        for name, _ in columns:
            mark = ("▼" if self.reverse else "▲") if name == self.sort else ""
            is_text = name in {"request", "stage", "policy"}
            table.add_column(
                f"{name}{mark}",
                justify="left" if is_text else "right",
                no_wrap=True,
                overflow="ellipsis",
                max_width=18 if is_text else None,
                min_width=8 if name in _BYTES else 7,
                header_style="bold reverse" if name == self.sort else "bold",
            )
        for each in sorted(requests, key=value, reverse=self.reverse):
            table.add_row(*(_cell(name, each, read(each)) for name, read in columns))
        return table


def _peak(each: RequestMemory) -> int | None:
    return None if each.peak is None else each.peak.bytes.value


def _known(name: str, each: RequestMemory) -> bool:
    """Whether a column is known of a request."""
    figures = {
        "tokens": each.tokens.value,
        "KV": each.kv_allocated_bytes.value,
        "used": each.kv_used_bytes.value,
        "state": each.state_bytes.value,
        "peak": _peak(each),
    }
    return name not in figures or figures[name] is not None


def _cell(name: str, each: RequestMemory, value: Value) -> Text:
    if not _known(name, each):
        return Text("?")
    if name in _BYTES and isinstance(value, int):
        return Text(size_text(value))
    if name == "stage":
        return Text(str(value), _STAGES[each.stage])
    return Text(f"{value:,}" if isinstance(value, int) else value)


def _sparks(history: History, width: int) -> list[RenderableType]:
    """The latest of the past in two lines: all layers' caches, and MLX's peaks."""
    cells = max(10, width - 24)
    caches = [sum(each) for each in history.layer_bytes][-cells:]
    peaks = [each or 0 for each in history.mlx_peak_bytes][-cells:]
    if not caches:
        return []
    return [_spark("KV and state", caches, STYLES["KV"]), _spark("MLX peak", peaks, "red")]


def _spark(name: str, values: Sequence[int], style: str) -> Text:
    most = max(values)
    line = Text(f"{name:<13}", no_wrap=True)
    line.append("".join(_SPARKS[-(-value * 8 // most) if most else 0] for value in values), style)
    line.append(f" {size_text(most)}", "dim")
    return line


def _rate(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f}/s"
