"""Progress bars for the waits a person notices: loading a model, and the prefill of a long prompt.

Shown on standard error when that is a terminal, or in a notebook; never elsewhere, and not for what takes under half a
second. Knows events and byte counts; nothing of the fork.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from hwledger_omlx.engine.events import Event, ProgressEvent

_DELAY_S = 0.5
_POLL_S = 0.1


def wanted(show: bool | None) -> bool:
    """Whether bars are to be shown: as the caller says, or where a person would see them."""
    if show is not None:
        return show
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


@contextmanager
def loading(name: str, total_bytes: int, loaded_bytes: Callable[[], int], *, show: bool) -> Iterator[None]:
    """A bar of bytes while the body loads `name`: `loaded_bytes` is asked from another thread."""
    if not show:
        yield
        return
    done = threading.Event()
    start_bytes = loaded_bytes()

    def watch() -> None:
        with tqdm(
            total=total_bytes, desc=f"loading {name}", unit="B", unit_scale=True, delay=_DELAY_S, leave=False
        ) as bar:
            while not done.wait(_POLL_S):
                bar.n = min(total_bytes, max(0, loaded_bytes() - start_bytes))
                bar.refresh()

    watcher = threading.Thread(target=watch, name="hwledger-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


class PrefillBar:
    """A bar over the `ProgressEvent`s of one request; gone at the first other event."""

    def __init__(self, *, show: bool) -> None:
        self._show = show
        self._bar: Any = None

    def take(self, event: Event | Exception) -> None:
        """Moves the bar, or ends it."""
        if not self._show:
            return
        if isinstance(event, ProgressEvent):
            if self._bar is None:
                self._bar = tqdm(total=event.total_tokens, desc="prefill", unit="tok", delay=_DELAY_S, leave=False)
            self._bar.n = event.done_tokens
            self._bar.refresh()
        else:
            self.close()

    def close(self) -> None:
        """Removes the bar."""
        self._show = False
        if self._bar is not None:
            self._bar.close()
            self._bar = None
