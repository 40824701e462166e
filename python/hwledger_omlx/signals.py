"""SIGTERM, SIGINT and SIGHUP, for a command that runs until it is told to end, or until its client has gone.

The first SIGTERM or SIGINT asks it to end, and gives it a while for that; a second one ends the process at once, as
does the first before there is anything to end. Either way the store opens the next time: it is safe against worse.
SIGHUP has it read its configuration again.

A process that is cut short by a signal leaves with 128 and its number. Where it was no signal that it had to end for,
but a client that went away, it leaves with `CUT_SHORT`.

The wheel's command handles them here. The Rust host has handlers of its own, which need no interpreter to end the
process; for the rest they come here by `end` and `reload`.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from hwledger_omlx.errors import Error

logger = logging.getLogger(__name__)

TO_CLOSE_S = 30.0
"""What an engine may take to close, beyond the time that answers have to end."""
CUT_SHORT = os.EX_SOFTWARE
"""Exit code, 70, of a process that could not end in time after its client had gone."""
_FLUSH_S, _TELL_S = 10.0, 1.0
_ENDING = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class _Answer:
    end_soon: Callable[[], None]
    within_s: Callable[[], float]
    flush: Callable[[], object]
    reload: Callable[[], object] | None
    over: threading.Event = field(default_factory=threading.Event)


class _State:
    """Of the process: who answers, and what it was told."""

    hosted = False
    """Whether the program that runs Python has handlers of its own."""
    answer: _Answer | None = None
    told: int = 0
    """The signal that asked for the end."""
    terminals: tuple[int, ...] = ()
    reload_asked = False
    """Whether it came before there was anything to reload."""
    reloading = threading.Lock()


def leave_to_host() -> None:
    """The program that runs Python handles signals itself."""
    _State.hosted = True


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Has signals end the process as said above. For a command, on the main thread, from its beginning on."""
    _State.answer, _State.told, _State.reload_asked = None, 0, False
    _State.terminals = tuple(each for each in range(3) if os.isatty(each))
    if _State.hosted:
        yield
        return
    before = {each: signal.signal(each, lambda number, _: end(number)) for each in _ENDING}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: reload())
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def answered(
    end_soon: Callable[[], None],
    *,
    within_s: Callable[[], float],
    flush: Callable[[], object] = lambda: None,
    reload: Callable[[], object] | None = None,
) -> Iterator[None]:
    """While this is entered there is something to end, and whoever entered it does so when it is asked to.

    Args:
        end_soon: asks for the end, and does not wait for it. On any thread.
        within_s: says how long the end may take, from its beginning until this is left; then the process ends all
            the same.
        flush: has done what may not be lost, where the end took too long.
        reload: reads the configuration again; on a thread of its own, one at a time.
    """
    answer = _State.answer = _Answer(end_soon, within_s, flush, reload)
    if _State.reload_asked:
        _reload_aside(answer)
    try:
        yield
    finally:
        answer.over.set()


def end(number: int) -> None:
    """A signal to end has come. Does not wait for the end."""
    answer = _State.answer
    if answer is None or _State.told:
        _leave(128 + number)
    _State.told = number
    _begin_deadline(answer, 128 + number)
    answer.end_soon()


def client_gone() -> None:
    """Whoever the command worked for has closed the pipe, and it is ending: with the same deadline as by a signal.

    Nobody may be left who would send one. Where the process is not one that ends by signals of ours, as where a
    library serves in it, nothing is done.
    """
    if _State.answer is not None and not _State.told:
        _begin_deadline(_State.answer, CUT_SHORT)


def reload() -> None:
    """SIGHUP has come: to read the configuration again, or because the terminal went away. Does not wait."""
    answer = _State.answer
    if _State.terminals and not any(map(os.isatty, _State.terminals)):
        end(signal.SIGHUP)
    elif answer is None:
        _State.reload_asked = True
    else:
        _reload_aside(answer)


def _reload_aside(answer: _Answer) -> None:
    if answer.reload is None:
        logger.warning("there is nothing to reload")
    else:
        threading.Thread(target=_reload, args=(answer.reload,), name="hwledger-reload", daemon=True).start()


def _reload(read_again: Callable[[], object]) -> None:
    with _State.reloading:
        try:
            read_again()
        except Exception as error:  # noqa: BLE001 - a file that a person has just edited may be wrong in any way
            logger.error("not reloaded, everything stays as it was: %s", error)


def _begin_deadline(answer: _Answer, code: int) -> None:
    threading.Thread(target=_cut_short, args=(answer, code), name="hwledger-deadline", daemon=True).start()


def _cut_short(answer: _Answer, code: int) -> None:
    within_s = answer.within_s()
    if answer.over.wait(within_s):
        return
    said = "it has not ended in %.0f s, and is ended now; what the cache had accepted is kept"
    _for_a_while(lambda: logger.error(said, within_s), _TELL_S)
    flush_for_a_while(answer.flush)
    _leave(code)


def flush_for_a_while(flush: Callable[[], object]) -> None:
    """Has done what may not be lost, before the process is ended: some seconds, for what hangs may hang here too."""

    def flushed() -> None:
        try:
            flush()
        except Error as error:
            logger.error("not all that the cache had accepted is kept: %s", error)

    _for_a_while(flushed, _FLUSH_S)


def _for_a_while(work: Callable[[], object], at_most_s: float) -> None:
    """Does something that may never end, such as a write to a pipe that nobody reads."""
    working = threading.Thread(target=work, name="hwledger-flush", daemon=True)
    working.start()
    working.join(at_most_s)


def _leave(code: int) -> NoReturn:
    _for_a_while(_flush_output, _TELL_S)
    os._exit(code)


def _flush_output() -> None:
    if sys.stdout is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
