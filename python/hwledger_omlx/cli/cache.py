"""`hwledger-omlx cache`: looks after a folder of cached KV while no engine uses it."""

import dataclasses
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hwledger_omlx._native import Store
from hwledger_omlx.cache.reports import Compacted, NamespaceUse, Purged, StoreInfo, VerifyReport
from hwledger_omlx.cache.settings import default_folder
from hwledger_omlx.cache.sizes import size_text
from hwledger_omlx.cli import options
from hwledger_omlx.errors import StoreError, StoreNotFoundError

cache_app = typer.Typer(no_args_is_help=True, help="The paged KV cache: a folder at rest, that no engine has open.")

Folder = Annotated[
    Path | None, typer.Argument(metavar="[FOLDER]", help="Folder of the cache; the default one where none is given.")
]


@cache_app.command()
def info(folder: Folder = None, as_json: options.Json = False) -> None:
    """What the folder holds: whose prompts, how much of them, and what they take."""
    with _at_rest(folder) as store:
        found = StoreInfo.parse(store.info())
    if as_json:
        _print_json(found)
        return
    console = Console()
    for line in (
        f"{found.folder}",
        f"{found.tokens:,} tokens in {found.blocks:,} blocks, {found.snapshots:,} snapshots, {found.pinned:,} pinned",
        f"{size_text(found.disk_bytes)} in {found.segments:,} segments, {size_text(found.live_bytes)} of it live; "
        f"{size_text(found.free_bytes)} free on the disk",
        f"opened in {found.opened_seconds * 1e3:.0f} ms, {found.opened}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if found.namespaces:
        console.print(_namespace_table(found.namespaces))


@cache_app.command()
def verify(folder: Folder = None, as_json: options.Json = False) -> None:
    """Reads every record and takes bad ones out. Exit code 1 if there are any. Ctrl-C stops it."""
    with _at_rest(folder) as store, _working("reading every record"):
        report = VerifyReport.parse(store.verify())
    if as_json:
        _print_json(report)
    else:
        console = Console()
        outcome = f"{len(report.bad):,} bad and taken out" if report.bad else "all good"
        console.print(f"{report.records:,} records, {size_text(report.bytes)}: {outcome}", highlight=False)
        if report.bad:
            table = Table("record", "segment", "offset", "why", box=box.SIMPLE_HEAD)
            for bad in report.bad:
                table.add_row(str(bad.id), str(bad.segment), str(bad.offset), Text(bad.why))
            console.print(table)
    if report.bad:
        raise typer.Exit(1)


@cache_app.command()
def purge(
    folder: Folder = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Only of this model: name or key, as `info` shows them."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: options.Json = False,
) -> None:
    """Forgets all prompts, or those of one model. What the fork's own cache keeps is not touched."""
    with _at_rest(folder) as store:
        found = StoreInfo.parse(store.info())
        spaces = found.namespaces if model is None else _chosen(found.namespaces, model)
        if not yes:
            whose = "all prompts" if model is None else f"all prompts of {model}"
            tokens = sum(space.tokens for space in spaces)
            size = size_text(sum(space.disk_bytes for space in spaces))
            typer.confirm(f"Forget {whose} in {found.folder} ({tokens:,} tokens, {size})?", abort=True, err=True)
        if model is None:
            purged = Purged.parse(store.purge())
        else:
            purged = sum((Purged.parse(store.purge(space.key)) for space in spaces), start=Purged())
    if as_json:
        _print_json(purged)
        return
    what = f"{purged.blocks:,} blocks and {purged.snapshots:,} snapshots, {size_text(purged.bytes)}"
    Console().print(f"forgotten: {what}", highlight=False)


@cache_app.command()
def compact(folder: Folder = None, as_json: options.Json = False) -> None:
    """Rewrites the segments that are mostly dead and gives their space back."""
    with _at_rest(folder) as store, _working("rewriting segments"):
        done = Compacted.parse(store.compact())
    if as_json:
        _print_json(done)
        return
    moved, freed = size_text(done.moved_bytes), size_text(done.freed_bytes)
    Console().print(f"{done.segments:,} segments rewritten: {moved} moved, {freed} given back", highlight=False)


def _at_rest(folder: Path | None) -> Store:
    """The store in `folder`, opened with limits that evict nothing.

    Raises:
        StoreNotFoundError: there is none.
        StoreError: what `Store.open` raises.
    """
    place = default_folder() if folder is None else folder.expanduser()
    if not place.is_dir():
        wrong = "it is no folder" if place.exists() else "there is no such folder"
        raise StoreNotFoundError(f"no cache at {place}: {wrong}")
    if not any(place.iterdir()):
        raise StoreNotFoundError(f"no cache at {place}: the folder is empty")
    return Store.open(place, quota_bytes=1 << 62, hot_bytes=0, queue_bytes=256 << 20, min_free_bytes=0)


def _chosen(spaces: tuple[NamespaceUse, ...], model: str) -> tuple[NamespaceUse, ...]:
    chosen = tuple(space for space in spaces if model in (space.label, space.key.hex()))
    # Shortened as `info` shows it, and not so short that it could be a name.
    if not chosen and len(model) >= _KEY_DIGITS:
        chosen = tuple(space for space in spaces if space.key.hex().startswith(model.lower()))
    if not chosen:
        known = ", ".join(sorted({space.label for space in spaces})) or "none"
        raise StoreError(f"no prompts of a model {model!r} are there (there are: {known})")
    return chosen


_KEY_DIGITS = 12


def _namespace_table(spaces: tuple[NamespaceUse, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("model", overflow="fold", min_width=8)
    for column in ("tokens", "blocks", "snapshots", "size"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("last used", no_wrap=True)
    table.add_column("key", no_wrap=True)
    for space in sorted(spaces, key=lambda each: each.last_used, reverse=True):
        counts = (f"{count:,}" for count in (space.tokens, space.blocks, space.snapshots))
        used = space.last_used.astimezone().strftime("%Y-%m-%d %H:%M")
        # Text, not str: a name may hold square brackets, which would be taken for markup.
        table.add_row(Text(space.label), *counts, size_text(space.disk_bytes), used, space.key.hex()[:_KEY_DIGITS])
    return table


def _working(what: str) -> Any:
    """A sign of life on standard error; nothing where that is no terminal."""
    return Console(stderr=True).status(what)


def _print_json(report: StoreInfo | VerifyReport | Purged | Compacted) -> None:
    typer.echo(json.dumps(dataclasses.asdict(report), indent=2, default=_plain))


def _plain(value: object) -> str:
    match value:
        case bytes():
            return value.hex()
        case datetime():
            return value.isoformat()
        case Path():
            return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON")
