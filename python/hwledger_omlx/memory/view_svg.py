"""A memory report in a notebook: a heatmap of layers by time, and a bar of what the memory is taken by.

In the colours of the page around it, light or dark; details where the pointer rests.
"""

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from hwledger_omlx.cache.sizes import size_text
from hwledger_omlx.memory.records import History, ModelMemory
from hwledger_omlx.memory.report import MemoryReport
from hwledger_omlx.memory.view_parts import Part, headline, parts, peak_text, sampling_text

_COLOURS = {
    "weights": "#3b82c4",
    "KV": "#d9822b",
    "state": "#9b59b6",
    "activations": "#3f9b62",
    "cache": "#4db6ac",
    "free": "#8a8f98",
}
_PHASES = {
    "idle": "#8a8f98",
    "restore": "#4db6ac",
    "prefill": "#3b82c4",
    "join": "#9b59b6",
    "decode": "#3f9b62",
}
_WIDTH, _LEFT, _RIGHT = 760, 56, 14
_PLOT = _WIDTH - _LEFT - _RIGHT
_LEVELS = 24
"""Of colour; runs of one level are one rectangle."""
_FREE_AT_MOST = 0.3
"""Share of the bar that what is free takes at most: on a large machine nothing else would be seen."""
_ROWS_HIGH, _ROW_LEAST, _ROW_MOST = 260, 3.0, 22.0
_CHART, _STRIP = 64, 8


def html(report: MemoryReport) -> str:
    """All pictures."""
    drawn = [bar_svg(report), *(heatmap_svg(model) for model in report.models)]
    return "".join(f"<div>{each}</div>" for each in drawn)


def bar_svg(report: MemoryReport) -> str:
    """What the memory is taken by, as an `<svg>` element."""
    held = parts(report)
    said = headline(report)
    drawn = [_begin(96, said), _text(0, 13, _shortened(said)), *_bar(held, 24), *_legend(held, 68)]
    return "".join([*drawn, "</svg>"])


def _bar(held: Sequence[Part], y: float) -> Iterator[str]:
    whole = sum(part.nbytes for part in held) or 1
    free = sum(part.nbytes for part in held if part.name == "free")
    free_share = min(free / whole, _FREE_AT_MOST) if whole > free else free / whole
    is_cut = free_share < free / whole
    taken = max(whole - free, 1)
    x, width = 0.0, float(_WIDTH)
    for part in held:
        share = free_share if part.name == "free" else (1 - free_share) * part.nbytes / taken
        # What is there is seen.
        length = max(width * share, 2.0 if part.nbytes else 0.0)
        length = min(length, width - x)
        said = f"{part.name}: {size_text(part.nbytes)} ({part.how})"
        if part.name == "free" and is_cut:
            said += "; not to scale"
        yield _rect(x, y, length, 26, _COLOURS.get(part.name, "#8a8f98"), said, 0.35 if part.name == "free" else 1.0)
        if part.name == "free" and is_cut:
            for step in (0, 6):
                yield (
                    f'<path d="M{x + 8 + step:g} {y + 30:g} l8 -34" stroke="currentColor" stroke-width="1.5" '
                    'opacity="0.6"/>'
                )
        x += length


def _legend(held: Sequence[Part], y: float) -> Iterator[str]:
    x = 0.0
    for part in held:
        said = f"{part.name} {size_text(part.nbytes)}"
        yield _rect(x, y, 10, 10, _COLOURS.get(part.name, "#8a8f98"), part.how, 0.5 if part.name == "free" else 1.0)
        yield _text(x + 15, y + 9, said)
        x += 27 + 6.4 * len(said)


def heatmap_svg(model: ModelMemory) -> str:
    """Layers by time of one model, as an `<svg>` element."""
    history = model.history
    title = f"{model.model_id} at {model.kv_policy}: {peak_text(model.peak)}"
    trouble = sampling_text(model)
    layers = len(history.layer_bytes[0]) if history.layer_bytes else 0
    if not layers:
        said = trouble or "no sample with a cache was taken yet"
        return "".join([_begin(40, title), _text(0, 13, _shortened(title)), _text(0, 32, said), "</svg>"])
    row = min(max(_ROWS_HIGH / layers, _ROW_LEAST), _ROW_MOST)
    top = 26 + (16 if trouble else 0)
    below = top + _STRIP + 4 + row * layers
    times = _Times(history)
    drawn = [_begin(below + _CHART + 74, title), _text(0, 13, _shortened(title))]
    if trouble:
        drawn.append(_text(0, 30, _shortened(trouble), ' opacity="0.7"'))
    drawn += [*_strip(history, times, top), *_map(history, times, top + _STRIP + 4, row)]
    drawn += [*_chart(history, times, below + 10), *times.axis(below + _CHART + 26)]
    drawn += _keys(history, below + _CHART + 52)
    return "".join([*drawn, "</svg>"])


class _Times:
    """Places of the points on the page: each as wide as the next one, for idle hours would hide all else."""

    def __init__(self, history: History) -> None:
        self._unix_s = history.unix_s
        self.step = _PLOT / len(history.unix_s)

    def x(self, point: int) -> float:
        return _LEFT + self.step * point

    def said(self, point: int) -> str:
        before = self._unix_s[-1] - self._unix_s[point]
        if before < 120:
            return f"-{before:.1f} s" if before else "now"
        return f"-{before / 60:.0f} min"

    def axis(self, y: float) -> Iterator[str]:
        last = len(self._unix_s) - 1
        marks = sorted({round(last * share / 4) for share in range(5)})
        for point in marks:
            anchor = "start" if point == 0 else "end" if point == last else "middle"
            x = self.x(point + 1) if point == last else self.x(point)
            yield _text(x, y, self.said(point), f' text-anchor="{anchor}" opacity="0.7"')


def _strip(history: History, times: _Times, y: float) -> Iterator[str]:
    for phase, run in groupby(enumerate(history.phase), key=lambda each: each[1]):
        points = [point for point, _ in run]
        said = f"{phase}, {times.said(points[0])} to {times.said(points[-1])}"
        yield _rect(times.x(points[0]), y, times.step * len(points), _STRIP, _PHASES[phase], said)
    yield _text(_LEFT - 6, y + _STRIP, "phase", ' text-anchor="end" opacity="0.7" font-size="10"')


def _map(history: History, times: _Times, y: float, row: float) -> Iterator[str]:
    most = max(max(each) for each in history.layer_bytes) or 1
    layers = len(history.layer_bytes[0])
    for layer in range(layers):
        top = y + row * layer
        held = [each[layer] for each in history.layer_bytes]
        for level, run in groupby(enumerate(held), key=lambda each: -(-each[1] * _LEVELS // most)):
            points = [point for point, _ in run]
            said = f"layer {layer}, {times.said(points[-1])}: {size_text(held[points[-1]])}"
            opacity = 0.06 + 0.94 * level / _LEVELS
            colour = _COLOURS["KV"] if level else "currentColor"
            yield _rect(
                times.x(points[0]), top, times.step * len(points), row - min(1.0, row / 6), colour, said, opacity
            )
        if row >= 11 or not layer % max(1, round(12 / row)):
            yield _text(_LEFT - 6, top + row / 2 + 4, str(layer), ' text-anchor="end" opacity="0.7" font-size="10"')


def _chart(history: History, times: _Times, y: float) -> Iterator[str]:
    """MLX's active memory as an area, its peaks as a line."""
    peaks = [each or 0 for each in history.mlx_peak_bytes]
    active = [each or 0 for each in history.mlx_active_bytes]
    most = max([*peaks, *active, 1])

    def height(nbytes: int) -> float:
        return y + _CHART * (1 - nbytes / most)

    def steps(values: Sequence[int]) -> str:
        return " ".join(
            f"{times.x(point):.1f},{height(value):.1f} {times.x(point + 1):.1f},{height(value):.1f}"
            for point, value in enumerate(values)
        )

    floor = y + _CHART
    right = times.x(len(active))
    yield f'<polygon points="{_LEFT},{floor:g} {steps(active)} {right:.1f},{floor:g}" fill="#3b82c4" opacity="0.35"/>'
    yield f'<polyline points="{steps(peaks)}" fill="none" stroke="#c0392b" stroke-width="1.5"/>'
    yield _text(_LEFT - 6, y + 8, size_text(most), ' text-anchor="end" opacity="0.7" font-size="10"')
    yield _text(_LEFT - 6, floor, "0 B", ' text-anchor="end" opacity="0.7" font-size="10"')


def _keys(history: History, y: float) -> Iterator[str]:
    x = float(_LEFT)
    most = max(max(each) for each in history.layer_bytes)
    seen = [phase for phase in _PHASES if phase in history.phase]
    entries: list[tuple[str, str]] = [(_PHASES[phase], phase) for phase in seen]
    entries += [(_COLOURS["KV"], f"a layer's caches, up to {size_text(most)}")]
    entries += [("#3b82c4", "MLX active"), ("#c0392b", "MLX peak")]
    for colour, said in entries:
        yield _rect(x, y, 10, 10, colour, said)
        yield _text(x + 14, y + 9, said)
        x += 26 + 6.2 * len(said)


def _begin(height: float, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" width="{_WIDTH}" role="img" '
        f'font-family="sans-serif" font-size="12" fill="currentColor"><title>{escape(title)}</title>'
    )


def _rect(x: float, y: float, width: float, height: float, colour: str, said: str, opacity: float = 1.0) -> str:
    shade = "" if opacity == 1.0 else f' opacity="{opacity:.2f}"'
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"{shade}>'
        f"<title>{escape(said)}</title></rect>"
    )


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'


def _shortened(text: str) -> str:
    characters = _WIDTH // 6
    return text if len(text) <= characters else text[: characters - 1] + "…"
