"""Lets other processes see the memory of this one: a report in a file of its own, written while somebody looks.

A thread looks once a second whether the file `watched` was touched lately, which `hwledger-omlx top` does, and writes
the report only then: making one costs milliseconds, which nobody should pay for nobody. The first one is written when a
model is loaded, so that the process can be found. The file goes with the last model, or with the process.
"""

import atexit
import contextlib
import json
import logging
import os
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwledger_omlx._native import memory_report
from hwledger_omlx.errors import Error
from hwledger_omlx.fork.home import home, write_text

if TYPE_CHECKING:
    from hwledger_omlx.hooks.layer_memory.sampler import Sampler

PERIOD_S = 1.0
"""Seconds between two reports, and between two looks."""
WATCHED_FOR_S = 5.0
"""For how long a touch of `watched` counts, in seconds."""

_log = logging.getLogger("hwledger_omlx.fork")


def folder() -> Path:
    """Where the reports of this user's processes are."""
    return home() / "run"


def report_file(pid: int) -> Path:
    """That of a process."""
    return folder() / f"{pid}.json"


def watched_file() -> Path:
    """What is touched by who looks."""
    return folder() / "watched"


def process_report(samplers: "list[Sampler]") -> str:
    """The report of all models of this process, as JSON."""
    from hwledger_omlx.hooks.layer_memory.machine import mlx_memory  # MLX, which who only looks does not need

    around: dict[str, Any] = {"mlx": mlx_memory(), "store": None, "unsampled": []}
    around["why_no_store"] = "no model of the process has a paged cache"
    return memory_report([sampler.ledger for sampler in samplers], json.dumps(around)).json


class Publisher:
    """The thread of one process."""

    def __init__(self) -> None:
        self._samplers: weakref.WeakSet[Sampler] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._ending = False
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._failed = False

    def add(self, sampler: "Sampler") -> None:
        """Has the reports tell of a further model, for as long as it is there."""
        with self._lock:
            if self._pid != os.getpid():
                # A fork has none of its parent's threads.
                self._pid, self._thread = os.getpid(), None
            self._samplers.add(sampler)
            if self._thread is None and not self._ending:
                self._thread = threading.Thread(target=self._run, name="hwledger-memory", daemon=True)
                self._thread.start()
                # A thread that is in native code when the interpreter goes takes the process down with it, so it ends
                # before; atexit's own hooks would come too late for that.
                getattr(threading, "_register_atexit", atexit.register)(self.end)
        self._changed.set()

    def end(self) -> None:
        """Takes the report away and ends the thread, for good. Safe to call twice; nothing happens in a fork."""
        if self._pid != os.getpid():
            return
        self._ending = True
        self._changed.set()
        thread = self._thread
        if thread is not None:
            thread.join()

    def withdraw(self) -> None:
        """Takes the report away, until the next one is written."""
        with contextlib.suppress(OSError, Error):
            report_file(self._pid).unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._ending:
            is_new = self._changed.wait(PERIOD_S)
            self._changed.clear()
            with self._lock:
                samplers = list(self._samplers)
                if not samplers:
                    self._thread = None
            if not samplers or self._ending:
                break
            self._publish(samplers, is_new=is_new)
            # Not kept until the next turn: a model is unloaded when nobody holds it.
            del samplers
        self.withdraw()

    def _publish(self, samplers: "list[Sampler]", *, is_new: bool) -> None:
        try:
            if is_new or is_watched():
                write_text(report_file(self._pid), process_report(samplers))
        except (OSError, Error) as error:
            # A home that cannot be written to is no matter for the models; it is said once.
            if not self._failed:
                self._failed = True
                _log.debug("the memory report of this process cannot be published: %s", error)


def is_watched() -> bool:
    """Whether somebody has looked lately."""
    try:
        return time.time() - watched_file().stat().st_mtime < WATCHED_FOR_S
    except FileNotFoundError:
        return False


publisher = Publisher()
