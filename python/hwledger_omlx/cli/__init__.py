"""The command line `hwledger-omlx`. Each command has a module of its own; this one puts them together.

Whatever hwledger-omlx raises on purpose becomes one line on standard error and exit code 2.
"""

import signal
import sys
from collections.abc import Sequence

import typer

from hwledger_omlx import Error, __version__, logs
from hwledger_omlx.cli.bench import bench_app
from hwledger_omlx.cli.cache import cache_app
from hwledger_omlx.cli.chat import chat
from hwledger_omlx.cli.config import config_app
from hwledger_omlx.cli.demo import demo
from hwledger_omlx.cli.generate import generate
from hwledger_omlx.cli.kv import kv_app
from hwledger_omlx.cli.ledger import ledger_app
from hwledger_omlx.cli.patches import patches_app
from hwledger_omlx.cli.plan import plan
from hwledger_omlx.cli.rpc import rpc
from hwledger_omlx.cli.serve import serve
from hwledger_omlx.cli.top import top

app = typer.Typer(
    name="hwledger-omlx",
    help="oMLX's engine in-process, with a KV cache that outlives the process.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(generate)
app.command()(chat)
app.command()(serve)
app.command()(rpc)
app.command()(top)
app.command()(plan)
app.add_typer(patches_app, name="patches")
app.add_typer(cache_app, name="cache")
app.add_typer(config_app, name="config")
app.add_typer(kv_app, name="kv")
app.add_typer(ledger_app, name="ledger")
app.add_typer(bench_app, name="bench")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hwledger-omlx {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """oMLX's engine in-process, with a KV cache that outlives the process."""


def main() -> None:
    """Entry point of the console script."""
    # So that engines are closed and temporary folders removed, as on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], *, program: str | None = None) -> int:
    """Runs a command line in this process, which is a program's and not a library's; its exit code.

    Args:
        arguments: all but the program.
        program: its name in what is said; None for the one that runs.
    """
    logs.configure(to_stderr=True)
    try:
        app(args=list(arguments), prog_name=program)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Error as error:
        if sys.stdout is not None:  # as where it was closed before the start
            sys.stdout.flush()
        typer.echo(f"hwledger-omlx: {error}", err=True)
        return 2
    return 0
