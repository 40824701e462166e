"""`hwledger-omlx config`: what is configured, and where each value comes from."""

import dataclasses
import json
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hwledger_omlx.cache.sizes import size_text
from hwledger_omlx.cli import options
from hwledger_omlx.cli.serve import given
from hwledger_omlx.config.configuration import Config, Entry
from hwledger_omlx.config.load import load
from hwledger_omlx.errors import ConfigError

config_app = typer.Typer(
    no_args_is_help=True, help="The configuration: a file, variables and flags, the last strongest."
)


@config_app.callback()
def options_of_all() -> None:
    """The configuration: a file, variables and flags, the last strongest."""


@config_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def show(
    context: typer.Context,
    config: options.Config = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not as by default.")] = False,
    as_json: options.Json = False,
) -> None:
    """What is in force, and where each value comes from. Takes the flags of `serve` too: config show --port 9000."""
    loaded = load(config, flags=given(_flags(context.args)))
    loaded.server()  # and with it what the values must be together
    if as_json:
        told = {
            "file": None if loaded.file is None else str(loaded.file),
            "settings": [_told(each) for each in loaded.entries if not changed or each.origin != "default"],
        }
        typer.echo(json.dumps(told, indent=2))
    else:
        console = Console(highlight=False)
        console.print(loaded.file or "no file: hwledger.toml is looked for here and in the user's folder of settings")
        console.print(_table(loaded, changed))


def _told(entry: Entry) -> dict[str, Any]:
    fields = dataclasses.asdict(entry)
    return {**{name: fields[name] for name in ("name", "value", "origin", "takes")}, "value": entry.shown}


def _table(loaded: Config, changed: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold", min_width=12)
    table.add_column("from", overflow="fold")
    for each in loaded.entries:
        if not changed or each.origin != "default":
            style = "dim" if each.origin == "default" else ""
            table.add_row(*(Text(cell, style=style) for cell in (each.name, _text(each), each.origin)))
    return table


def _text(entry: Entry) -> str:
    if entry.value is None:
        return "-"
    if entry.name.endswith("_bytes"):
        return size_text(entry.value)
    return entry.shown if isinstance(entry.shown, str) else json.dumps(entry.shown)


def _flags(arguments: list[str]) -> dict[str, Any]:
    """Flags of `serve` as they stand on a command line. Which there are, the configuration knows."""
    flags: dict[str, Any] = {}
    left = list(arguments)
    while left:
        flag, equals, value = left.pop(0).partition("=")
        if flag.startswith("-") and not flag.startswith("--"):
            raise ConfigError(f"{flag} is a flag of no setting")
        if not flag.startswith("--"):
            flags.setdefault("MODEL", []).append(flag + equals + value)
        elif flag in ("--no-cache", "--restart-stuck"):
            flags[flag] = True
        elif equals:
            flags[flag] = value
        elif left:
            flags[flag] = left.pop(0)
        else:
            raise ConfigError(f"{flag} takes a value")
    return flags
