"""What a picture of a memory report shows: the parts of the bar, and each figure as text. Draws nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hwledger_omlx.cache.sizes import size_text
from hwledger_omlx.memory.records import Figure, ModelMemory, Peak
from hwledger_omlx.memory.report import MemoryReport

UNKNOWN = "?"
_DTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the memory."""

    name: str
    nbytes: int
    how: str
    """Where the number comes from."""


def parts(report: MemoryReport) -> list[Part]:
    """Weights, KV, state, activations, cache and what is free; what is not known is left out."""
    models = report.models
    held = [
        _sum("weights", (model.weights_bytes for model in models)),
        _sum("KV", (model.kv_allocated_bytes for model in models)),
        _sum("state", (model.state_bytes for model in models)),
    ]
    found = [part for part in held if part is not None and (part.name != "state" or part.nbytes)]
    active = report.mlx.active_bytes.value
    if active is not None:
        # Where one of the others is not known, it is in what is left over.
        name = "other arrays" if None in held else "activations"
        left_over = max(0, active - sum(part.nbytes for part in found))
        found.append(Part(name, left_over, "computed: MLX's active memory less the others"))
    found += filter(None, [_sum("cache", [report.mlx.cache_bytes]), _sum("free", [report.mlx.free_bytes])])
    return found


def _sum(name: str, figures: Iterable[Figure[int]]) -> Part | None:
    """None where one of them is not known."""
    known = list(figures)
    if any(each.value is None for each in known):
        return None
    hows = sorted({f"{each.source}: {each.how}" for each in known})
    return Part(name, sum(each.value or 0 for each in known), "; ".join(hows))


def said(figure: Figure[int]) -> str:
    """Bytes as text; what is not known is a question mark."""
    return UNKNOWN if figure.value is None else size_text(figure.value)


def short_format(name: str) -> str:
    """How keys or values are held, in a few letters: `bf16`, `affine 8`."""
    return _DTYPES.get(name) or " ".join(name.split(":")[:2])


def headline(report: MemoryReport) -> str:
    """The whole in a line."""
    names = ", ".join(model.model_id for model in report.models) or "no model"
    mlx, process = report.mlx, report.process
    return (
        f"{names}: MLX {said(mlx.active_bytes)} active, {said(mlx.cache_bytes)} cached, {said(mlx.peak_bytes)} at its "
        f"peak; process {said(process.footprint_bytes)}"
    )


def peak_text(peak: Peak | None) -> str:
    """How high it went, and when."""
    if peak is None:
        return "no peak was seen yet"
    where = f"in chunk {peak.chunk} of prefill" if peak.chunk is not None else f"in {peak.phase}"
    whose = f" of {peak.request_id}" if peak.request_id else ""
    return f"{said(peak.bytes)} at the peak, {where}{whose}"


def sampling_text(model: ModelMemory) -> str:
    """Whether the numbers can be believed; empty where there is nothing to say."""
    sampling: Any = model.sampling
    told = [] if sampling.why is None else [sampling.why]
    if sampling.state == "off":
        return f"not sampled: {told[0] if told else 'off'}"
    if sampling.failures:
        told.append(f"{sampling.failures} samples failed, the last with {sampling.last_failure}")
    if sampling.dropped:
        told.append(f"{sampling.dropped} samples had no room")
    return "; ".join(told)
