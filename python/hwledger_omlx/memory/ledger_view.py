"""The ledger as tables for a terminal."""

import time
from collections.abc import Iterable
from datetime import datetime

from rich import box
from rich.table import Table
from rich.text import Text

from hwledger_omlx.cache.sizes import size_text
from hwledger_omlx.memory.ledger_reconcile import ModelErrors, TermError
from hwledger_omlx.memory.ledger_row import LedgerRow

_OFF = 0.02
"""An error beyond it is shown in red: the planner's own bar."""

_WIDE = 116
"""Characters that a line with all columns takes."""

_TERMS = {"weights": "weights", "kv": "KV", "peak": "peak", "peak_in_batch": "peak, in batch"}


def requests_table(rows: Iterable[LedgerRow], width: int) -> Table:
    """A line a request: tokens, times, and its memory with how far the prediction was off.

    Args:
        rows: the requests.
        width: characters of a line; in a narrow one what tells least is left out.
    """
    wide = width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1 if wide else 0, 0, 0))
    table.add_column("arrived", no_wrap=True)
    table.add_column("model", overflow="fold", min_width=6)
    if wide:
        table.add_column("KV policy", overflow="fold")
    for column in ("prompt", "cached", "answer", "batch") if wide else ("prompt", "answer"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("end", no_wrap=True)
    for column in ("TTFT", "KV", "error", "peak", "error"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        # Text, not str: a name may hold square brackets, which would be taken for markup.
        cells: list[Text | str] = [_when(row.arrived_unix_s), Text(row.model)]
        if wide:
            counts = (row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.batch_peak)
            cells += [Text(row.kv_policy), *(f"{count:,}" for count in counts)]
        else:
            cells += [f"{row.prompt_tokens:,}", f"{row.completion_tokens:,}"]
        # Predicted of the whole batch, and measured of one request.
        predicted_kv = _sum(row.predicted_kv_bytes, row.predicted_state_bytes) if row.batch_peak <= 1 else None
        cells += [
            Text(row.finish_reason),
            "-" if row.ttft_s is None else f"{row.ttft_s:.2f} s",
            _size(row.kv_bytes),
            _error(predicted_kv, row.kv_bytes),
            _size(row.peak_bytes),
            _error(row.predicted_peak_bytes, row.peak_bytes),
        ]
        table.add_row(*cells)
    return table


def errors_table(models: Iterable[ModelErrors]) -> Table:
    """A line a term: how far the planner is off, and whether that changes."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("model", overflow="fold", min_width=6)
    table.add_column("device", overflow="fold")
    table.add_column("term", no_wrap=True)
    for column in ("requests", "median", "p95", "worst", "bias", ""):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("drift")
    for model in models:
        names = [Text(model.model), Text(model.device)]
        for error in model.terms:
            table.add_row(
                *names,
                _TERMS[error.term],
                f"{error.count:,}",
                *(_share(share) for share in (error.median, error.p95, error.worst)),
                _share(error.bias, signed=True),
                _signed_size(error.bias_bytes),
                _drift(error),
            )
            names = [Text(""), Text("")]
    return table


def remarks(model: ModelErrors) -> list[str]:
    """What the table of errors leaves out: what was not compared and why, and what the runtime takes."""
    lines = []
    if model.unanswered:
        lines.append(f"{model.unanswered:,} of {model.requests:,} requests were cancelled or failed and not compared")
    if model.unpredicted:
        because = f": {model.unpredicted_because}" if model.unpredicted_because else ""
        lines.append(f"{model.unpredicted:,} of {model.requests:,} requests were not predicted{because}")
    fit = model.runtime
    if fit is None:
        lines.append("runtime not fitted: it takes 10 answered requests that ran alone and were predicted")
    else:
        lines.append(
            f"runtime {size_text(fit.bytes)}, fitted to {fit.samples} requests, the middle half of them within "
            f"{size_text(fit.spread_bytes)}; plans use it from now on"
        )
    return lines


def _drift(error: TermError) -> Text:
    if error.drift is None:
        return Text("too few", style="dim")
    if not error.drift.drifts:
        return Text("none")
    return Text(f"{error.drift.earlier:+.1%} → {error.drift.recent:+.1%}", style="bold red")


def _sum(*sizes: int | None) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _error(predicted: int | None, actual: int | None) -> Text:
    if predicted is None or not actual:
        return Text("-")
    return _share((predicted - actual) / actual, signed=True)


def _share(share: float, *, signed: bool = False) -> Text:
    text = f"{share:+.1%}" if signed else f"{share:.1%}"
    return Text(text, style="red" if abs(share) > _OFF else "")


def _size(count: int | None) -> str:
    return "-" if count is None else size_text(count)


def _signed_size(count: int) -> str:
    return f"+{size_text(count)}" if count > 0 else size_text(count)


def _when(unix_s: float) -> str:
    """The time of the last day's requests, the day of those before."""
    arrived = datetime.fromtimestamp(unix_s).astimezone()
    return arrived.strftime("%H:%M:%S" if time.time() - unix_s < 86_400 else "%Y-%m-%d")
