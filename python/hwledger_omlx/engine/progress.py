"""Progress bars for the waits a person notices: loading a model, and the prefill of a long prompt.

Shown on standard error when that is a terminal, or in a notebook; never elsewhere, and not for what takes under half a
second. Knows events and byte counts; nothing of the fork.
"""

import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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


def _bar(**options: Any) -> Any:
    """A tqdm bar: a widget in a notebook that has ipywidgets, else text."""
    if _in_notebook() and importlib.util.find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm
    else:
        # Not tqdm.auto, which warns in every notebook without ipywidgets.
        from tqdm.std import tqdm
    return tqdm(delay=_DELAY_S, leave=False, **options)


@contextmanager
def loading(name: str, total_bytes: int, loaded_bytes: Callable[[], int], *, show: bool) -> Iterator[None]:
    """A bar of bytes while the body loads `name`: `loaded_bytes` is asked from another thread."""
    if not show:
        yield
        return
    done = threading.Event()
    start_bytes = loaded_bytes()

    def watch() -> None:
        with _bar(total=total_bytes, desc=f"loading {name}", unit="B", unit_scale=True) as bar:
            while not done.wait(_POLL_S):
                loaded = min(total_bytes, max(0, loaded_bytes() - start_bytes))
                bar.update(loaded - bar.n)

    watcher = threading.Thread(target=watch, name="hwledger-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


class PrefillBar:
    """A bar over the `ProgressEvent`s of one request, from its submission on; gone at the first other event."""

    def __init__(self, *, show: bool) -> None:
        # Made now, so that the half second counts from here and not from the end of the first chunk.
        self._bar: Any = _bar(desc="prefill", unit="tok") if show else None

    @property
    def wait_s(self) -> float | None:
        """How long to wait for the next event before `tick`; None for as long as it takes."""
        return None if self._bar is None else _DELAY_S

    def tick(self) -> None:
        """Shows that time passes, between events."""
        if self._bar is not None:
            self._bar.refresh()

    def take(self, event: Event | Exception) -> None:
        """Moves the bar, or ends it."""
        if isinstance(event, ProgressEvent) and self._bar is not None:
            self._bar.total = event.total_tokens
            self._bar.update(event.done_tokens - self._bar.n)
        elif not isinstance(event, ProgressEvent):
            self.close()

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
