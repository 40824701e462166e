"""`hwledger-omlx patches`: shows, checks and locks the patch series. What it shows, `hwledger_omlx.fork` finds out."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hwledger_omlx.errors import ForkNotFoundError
from hwledger_omlx.fork.locate import Fork, locate
from hwledger_omlx.fork.lock import lock
from hwledger_omlx.fork.series import Series
from hwledger_omlx.fork.verify import HookReport, verify

patches_app = typer.Typer(
    no_args_is_help=True, help="The patch series: what is hooked in the fork, and whether it fits."
)

_STYLES = {"applied": "green", "drifted": "yellow", "refused": "bold red", "off": "dim", "inapplicable": "dim"}

ForkOption = Annotated[
    Path | None,
    typer.Option(
        "--fork", metavar="PATH", help="A checkout or the folder `omlx`; else HWLEDGER_OMLX_FORK, else installed."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@patches_app.command("list")
def list_hooks(fork: ForkOption = None, as_json: JsonOption = False) -> None:
    """The hooks of the series, judged by the fork's source alone: no self-test is run."""
    series = Series.shipped()
    found: Fork | None = None
    try:
        found = locate(fork)
    except ForkNotFoundError as error:
        if fork is not None:
            raise
        # The series can be read without a fork; what would become of it cannot be said.
        rows = [_row(hook.id, hook.patch, hook.target, "unknown", str(error)) for hook in series.hooks]
    else:
        rows = [dataclasses.asdict(each.report) for each in verify(found, series, self_tests=False)]
    titles = {hook.id: hook.title for hook in series.hooks}
    _print(found, [{**row, "title": titles[row["id"]]} for row in rows], as_json)


@patches_app.command("verify")
def verify_hooks(fork: ForkOption = None, as_json: JsonOption = False) -> None:
    """What becomes of each hook on the fork. Exit code 1 if one is refused."""
    found = locate(fork)
    reports = [each.report for each in verify(found)]
    _print(found, [dataclasses.asdict(report) for report in reports], as_json)
    if any(report.status == "refused" for report in reports):
        raise typer.Exit(1)


@patches_app.command("lock")
def lock_hooks(
    fork: ForkOption = None,
    series: Annotated[
        Path | None, typer.Option("--series", metavar="DIR", help="A source checkout's patches/, to record there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Runs every self-test against the fork and records the digests of what it hooks."""
    found = locate(fork)
    locked = lock(found, series)
    files = [str(path) for path in locked.files]
    _print(found, [dataclasses.asdict(each.report) for each in locked.verdicts], as_json, files=files)


def _row(hook_id: str, patch: str, target: str, status: str, reason: str) -> dict[str, str]:
    return dict(
        zip(
            (field.name for field in dataclasses.fields(HookReport)),
            (hook_id, patch, target, status, reason),
            strict=True,
        )
    )


def _print(fork: Fork | None, rows: list[dict[str, str]], as_json: bool, **more: Any) -> None:
    if as_json:
        about = None
        if fork is not None:
            about = {name: None if value is None else str(value) for name, value in dataclasses.asdict(fork).items()}
        typer.echo(json.dumps({"hooks": rows, "fork": about, **more}, indent=2))
        return
    console = Console()
    console.print(f"fork: {fork or 'none found'}", highlight=False, markup=False, soft_wrap=True)
    table = Table()
    table.add_column("hook", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("why", overflow="fold")
    for row in rows:
        word = row["status"].upper() if row["status"] == "refused" else row["status"]
        # Text, not str: a reason may hold square brackets, which would be taken for markup.
        table.add_row(Text(row["id"]), Text(word, _STYLES.get(row["status"], "")), Text(row["reason"]))
    console.print(table)
    for name, values in more.items():
        for value in values:
            console.print(f"{name}: {value}", highlight=False, markup=False, soft_wrap=True)
