"""`hwledger-omlx ledger`: the requests of this machine, and how well their memory was predicted."""

import dataclasses
import json
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hwledger_omlx.cli import options
from hwledger_omlx.memory.ledger import Ledger
from hwledger_omlx.memory.ledger_export import json_line, write_csv, write_json, write_parquet
from hwledger_omlx.memory.ledger_view import errors_table, remarks, requests_table

ledger_app = typer.Typer(
    no_args_is_help=True, help="One line a request: tokens, times, and memory as predicted and as measured."
)

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Database = Annotated[
    Path | None, typer.Argument(metavar="[LEDGER]", help="The database; the default one where none is given.")
]
OfModel = Annotated[str | None, typer.Option("--model", "-m", help="Only of the model of this name.")]


def _since(text: str) -> float:
    if ago := _AGO.fullmatch(text):
        return time.time() - float(ago[1]) * _UNITS_S[ago[2]]
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is neither a time (2026-11-30, 2026-11-30T12:00) nor an age (90m, 24h, 7d)"
        ) from error


Since = Annotated[
    float | None,
    typer.Option(
        "--since",
        metavar="TIME|AGE",
        parser=_since,
        help="Only of requests from then on: 2026-11-30T12:00, or 24h, 7d.",
    ),
]


@ledger_app.command()
def show(
    ledger: Database = None,
    model: OfModel = None,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Most requests, the latest.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")] = False,
) -> None:
    """The latest requests, and how far the prediction of their memory was off."""
    with Ledger.open(ledger, create=False) as opened:
        rows = opened.rows(model=model, since=since, limit=limit)
    if as_json:
        for row in rows:
            typer.echo(json_line(row))
        return
    console = Console(highlight=False)
    if not rows:
        console.print("no such requests are recorded")
        return
    console.print(requests_table(rows, console.width))
    if whys := {row.prediction_error for row in rows if row.prediction_error}:
        for why in sorted(whys):
            console.print(f"not predicted: {why}", markup=False, soft_wrap=True)


@ledger_app.command()
def export(
    ledger: Database = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write CSV.")] = None,
    parquet: Annotated[Path | None, typer.Option("--parquet", metavar="FILE", help="Write Parquet.")] = None,
    jsonl: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write JSON, an object a line.")] = None,
    model: OfModel = None,
    since: Since = None,
) -> None:
    """Writes all requests to files, a column a field. Sizes are bytes, times seconds, `arrived_unix_s` is UTC."""
    wanted = [(csv, write_csv), (parquet, write_parquet), (jsonl, write_json)]
    if not any(file for file, _ in wanted):
        raise typer.BadParameter("give at least one of --csv, --parquet and --json")
    with Ledger.open(ledger, create=False) as opened:
        for file, write in wanted:
            if file is not None:
                count = write(file.expanduser(), opened.all_rows(model=model, since=since))
                typer.echo(f"{count:,} requests in {file}", err=True)


@ledger_app.command()
def reconcile(
    ledger: Database = None, model: OfModel = None, since: Since = None, as_json: options.Json = False
) -> None:
    """How far the planner was off, by model and term, and whether that drifts; fits what the runtime takes here.

    Errors are what was predicted less what was measured, as a share of the latter. Plans use the fit from then on.
    """
    with Ledger.open(ledger, create=False) as opened:
        models = opened.reconcile(model=model, since=since)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(each) for each in models], indent=2))
        return
    console = Console(highlight=False)
    if not models:
        console.print("no such requests are recorded")
        return
    if any(each.terms for each in models):
        console.print(errors_table(models))
    for each in models:
        for line in remarks(each):
            console.print(f"{each.model} on {each.device}: {line}", markup=False, soft_wrap=True)
