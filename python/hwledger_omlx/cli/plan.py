"""`hwledger-omlx plan`: what a model will take before it is loaded, and what of it fits. Options and printing only."""

from typing import Annotated

import typer

from hwledger_omlx.cli import options
from hwledger_omlx.engine import kv_policy


def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or Hugging Face id.")],
    context: Annotated[
        int | None,
        typer.Option("--context", min=1, help="Tokens of each request, prompt and answer.", show_default="8192"),
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Requests at the same time.")] = 1,
    kv: options.Kv = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="What there is: 48GiB.", show_default="the machine's")
    ] = None,
    answer: Annotated[
        int | None,
        typer.Option("--answer", min=0, help="Most tokens that are generated.", show_default="1024, or half"),
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option("--chunk", min=1, help="Tokens of a prompt computed at once.", show_default="the engine's"),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """What a model will take, term by term and layer by layer, and what of it fits. Nothing is loaded.

    The verdict is `fit`, `tight` (less than a tenth of the memory left) or `fail`.
    """
    from rich.console import Console

    from hwledger_omlx.memory.plan import plan as planned
    from hwledger_omlx.memory.plan_view import render

    found = planned(
        model,
        context=context,
        concurrency=concurrency,
        kv=kv_policy.named(kv),
        memory=memory,
        answer=answer,
        chunk=chunk,
    )
    if as_json:
        typer.echo(found.to_json())
    else:
        Console(highlight=False).print(render(found))
