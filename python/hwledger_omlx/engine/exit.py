"""The end of the process: engines that their owners forgot are closed, and MLX's streams released, in time."""

import atexit
import logging
import os
import threading
from typing import Protocol

from hwledger_omlx.fork import threads

logger = logging.getLogger(__name__)


class Closable(Protocol):
    """What has threads of its own until it is closed."""

    def close(self) -> None:
        """Ends the threads. Safe to call twice."""


_open: set[Closable] = set()
_hooked_in: set[int] = set()


def close_at_exit(engine: Closable) -> None:
    """Has the interpreter's end close an engine, while its threads still run."""
    if os.getpid() not in _hooked_in:
        _hooked_in.add(os.getpid())
        # concurrent.futures ends its threads from threading's own exit hooks, which run before atexit's, last one
        # first; only a hook of that kind, registered later, comes in time. asyncio and concurrent.futures rely on it.
        register = getattr(threading, "_register_atexit", atexit.register)
        register(_end_well, os.getpid())
    _open.add(engine)


def is_closed(engine: Closable) -> None:
    """The interpreter's end has nothing to close here any more."""
    _open.discard(engine)


def close_in_background(engine: Closable, pid: int) -> None:
    """Closes an engine of this process that its owner dropped.

    Does not wait: a finalizer may run on any thread, the engine's too. A forked child has nothing to close.
    """
    if os.getpid() == pid:
        threading.Thread(target=engine.close, name="hwledger-close").start()


def _end_well(pid: int) -> None:
    # A forked child inherits the hook without the threads that it would wait for.
    if os.getpid() != pid:
        return
    for engine in list(_open):
        try:
            engine.close()
        except Exception:
            logger.exception("an engine did not close")
    threads.release_global_thread()
