"""`hwledger-omlx top`: the memory of running engines and servers, live. Reads what they publish; asks them for it."""

import asyncio
import contextlib
import io
import sys
import time
from typing import Annotated

import typer
from prompt_toolkit.application import Application
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import HSplit, Layout, Window
from prompt_toolkit.layout.controls import FormattedTextControl
from prompt_toolkit.output import Output
from rich.console import Console, RenderableType

from hwledger_omlx.cli import options
from hwledger_omlx.errors import MemoryReportError
from hwledger_omlx.hooks.layer_memory.published import PERIOD_S
from hwledger_omlx.memory.processes import Published, ask, of_process, published
from hwledger_omlx.memory.top_view import KEYS, TopView

_ANSWER_S = 3.0
"""How long a process has to answer where one picture is wanted."""
_LOOK_S = 0.1


def top(
    pid: Annotated[int | None, typer.Option("--pid", "-p", help="The process to show; tab goes on to others.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end.")] = False,
    as_json: options.Json = False,
) -> None:
    """Where the memory of running engines and servers goes: layers, requests, peaks. q quits.

    With --json it prints the reports of all processes, one a line, by the schema hwledger.v1.
    """
    view = TopView(pid=pid)
    if once or as_json or not sys.stdout.isatty():
        _print_once(view, as_json=as_json)
        return
    ask()
    view.processes = _processes(pid)
    with contextlib.suppress(KeyboardInterrupt):
        application(view).run()


def application(view: TopView, *, terminal: Input | None = None, screen: Output | None = None) -> Application[None]:
    """The live view.

    Args:
        view: what is shown.
        terminal: where keys come from; None for the process's own.
        screen: where it is shown; None for the process's own.
    """

    def body() -> ANSI:
        size = running.output.get_size()
        return ANSI(drawn(view.draw(size.columns, size.rows), size.columns))

    layout = HSplit(
        [
            Window(FormattedTextControl(body), wrap_lines=False),
            Window(FormattedTextControl(f" {KEYS}"), height=1, style="reverse"),
        ]
    )
    running: Application[None] = Application(
        layout=Layout(layout),
        key_bindings=_keys(view),
        full_screen=True,
        refresh_interval=None,
        input=terminal,
        output=screen,
    )
    running.pre_run_callables.append(lambda: _start_refreshing(running, view))
    return running


def _keys(view: TopView) -> KeyBindings:
    keys = KeyBindings()

    @keys.add("q")
    @keys.add("c-c")
    def _quit(event: KeyPressEvent) -> None:
        event.app.exit()

    @keys.add("s")
    @keys.add("right")
    def _sort(event: KeyPressEvent) -> None:
        view.next_sort()

    @keys.add("left")
    def _sort_back(event: KeyPressEvent) -> None:
        view.next_sort(-1)

    @keys.add("r")
    def _reverse(event: KeyPressEvent) -> None:
        view.reverse = not view.reverse

    @keys.add("tab")
    def _next(event: KeyPressEvent) -> None:
        view.next_process()

    @keys.add("down")
    def _down(event: KeyPressEvent) -> None:
        view.scroll(1)

    @keys.add("up")
    def _up(event: KeyPressEvent) -> None:
        view.scroll(-1)

    @keys.add("pagedown")
    def _page_down(event: KeyPressEvent) -> None:
        view.scroll(10)

    @keys.add("pageup")
    def _page_up(event: KeyPressEvent) -> None:
        view.scroll(-10)

    return keys


def _start_refreshing(running: Application[None], view: TopView) -> None:
    async def refresh() -> None:
        while True:
            # Files are read where they hold up no key.
            await asyncio.to_thread(ask)
            view.processes = await asyncio.to_thread(_processes, None)
            running.invalidate()
            await asyncio.sleep(PERIOD_S)

    running.create_background_task(refresh())


def drawn(picture: RenderableType, columns: int) -> str:
    """As a terminal of so many columns takes it."""
    file = io.StringIO()
    console = Console(file=file, width=columns, force_terminal=True, color_system="256", highlight=False)
    console.print(picture)
    return file.getvalue()


def _processes(pid: int | None) -> list[Published]:
    """All, or the one that was asked for.

    Raises:
        MemoryReportError: that one publishes nothing that can be read.
    """
    found = published()
    if pid is not None and all(each.pid != pid for each in found):
        there = ", ".join(str(each.pid) for each in found) or "none"
        of_process(pid)
        raise MemoryReportError(f"process {pid} runs no engine of hwledger-omlx (running: {there})")
    return found


def _print_once(view: TopView, *, as_json: bool) -> None:
    ask()
    view.processes = _answered(view.pid)
    if as_json:
        for each in view.processes:
            if view.pid in {None, each.pid}:
                typer.echo(each.report.to_json())
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(view.draw(console.width, 200))
    if not view.processes:
        raise typer.Exit(1)


def _answered(pid: int | None) -> list[Published]:
    """What they say now, and not what they said when nobody had asked; of one that is held up what it said last."""
    asked_s = time.time()
    deadline = time.monotonic() + _ANSWER_S
    while True:
        found = _processes(pid)
        if time.monotonic() > deadline or all(time.time() - each.age_s >= asked_s for each in found):
            return found
        time.sleep(_LOOK_S)
