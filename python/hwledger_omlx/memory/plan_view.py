"""A plan as a terminal of 80 columns shows it: its terms with their sources, its layers, and what fits.

Knows the plan; computes nothing.
"""

import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hwledger_omlx.cache.sizes import size_text
from hwledger_omlx.memory.plan import TERMS, Plan, PlannedLayer

_VERDICTS = {"fit": "green", "tight": "yellow", "fail": "bold red"}
_WIDTH = 80


def render(plan: Plan) -> RenderableType:
    """All of it."""
    parts: list[RenderableType] = [_headline(plan), Text(), _terms(plan), Text(), _layers(plan)]
    if plan.found is not None:
        parts += [Text(), _policies(plan), _limits(plan)]
    return Group(*parts)


def as_text(plan: Plan) -> str:
    """The same without colours."""
    console = Console(file=io.StringIO(), width=_WIDTH, highlight=False)
    console.print(render(plan))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def _headline(plan: Plan) -> Text:
    requests = f"{plan.concurrency} x " if plan.concurrency > 1 else ""
    text = Text(f"{plan.model} ({plan.model_type}), {requests}{plan.context_tokens:,} tokens at {plan.policy}: ")
    text.append(f"{size_text(plan.peak_bytes)} of {size_text(plan.memory.bytes)}, ")
    return text.append(plan.verdict, style=_VERDICTS[plan.verdict])


def _terms(plan: Plan) -> Table:
    table = _table("", ">size", "where it comes from")
    for name in TERMS:
        amount = getattr(plan, name)
        table.add_row(name, size_text(amount.bytes), amount.source)
    table.add_section()
    table.add_row("peak", size_text(plan.peak_bytes), _free(plan))
    table.add_row("memory", size_text(plan.memory.bytes), plan.memory.source)
    return table


def _free(plan: Plan) -> str:
    if plan.free_bytes >= 0:
        return f"leaves {size_text(plan.free_bytes)} free"
    return f"{size_text(-plan.free_bytes)} too much"


def _layers(plan: Plan) -> Table:
    """Layers that follow each other and are alike stand in one row."""
    table = _table(">layers", "attention", "K", "V", ">a token", ">KV", ">state")
    for run in _runs(plan):
        first, last = run[0], run[-1]
        numbers = "beside" if first.layer is None else str(first.layer)
        if len(run) > 1:
            numbers += f"-{last.layer}"
        marks = [name for name, has in (("experts", first.experts), ("sinks", first.sinks)) if has]
        kv = sum(layer.kv_bytes for layer in run)
        state = sum(layer.state_bytes for layer in run)
        table.add_row(
            numbers,
            " + ".join([first.attention.replace("_", " "), *marks]),
            first.k or "",
            first.v or "",
            size_text(first.token_bytes * len(run)) if first.token_bytes else "",
            ("up to " if first.unknown_bytes else "") + size_text(kv) if kv else "",
            size_text(state) if state else "",
        )
    return table


def _runs(plan: Plan) -> Iterator[list[PlannedLayer]]:
    for _, run in groupby(plan.layers, key=lambda layer: replace(layer, layer=None, cache=None, source="")):
        yield list(run)


def _policies(plan: Plan) -> Table:
    table = _table("KV policy", ">KV", ">peak", "")
    for fit in plan.found.policies if plan.found else ():
        if fit.kv_bytes is None or fit.peak_bytes is None or fit.verdict is None:
            table.add_row(fit.policy, "", "", Text(fit.refused or "", style="bright_black"))
            continue
        verdict = Text(fit.verdict, style=_VERDICTS[fit.verdict])
        table.add_row(fit.policy, size_text(fit.kv_bytes), size_text(fit.peak_bytes), verdict)
    return table


def _limits(plan: Plan) -> Text:
    found = plan.found
    if found is None or found.longest_context is None:
        return Text("Not even one token fits.", style="bold red")
    longest = found.longest_context
    limit = ", the model's longest" if longest.is_models_limit else ""
    best = f"{found.policy} is the most precise policy that fits" if found.policy else "no policy of the dial fits"
    text = Text(
        f"At {plan.policy}: up to {longest.tokens:,} tokens each{limit}, or {found.most_requests:,} requests of "
        f"{plan.context_tokens:,}; {best}."
    )
    if longest.is_models_limit and plan.context_tokens > longest.tokens:
        # The verdict is of the memory only.
        beyond = f" But config.json allows no {plan.context_tokens:,} tokens."
        text.append(beyond, style=_VERDICTS["tight"])
    return text


def _table(*headings: str) -> Table:
    """A heading that begins with `>` stands above numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        is_number = heading.startswith(">")
        table.add_column(heading.lstrip(">"), justify="right" if is_number else "left", no_wrap=is_number)
    return table
