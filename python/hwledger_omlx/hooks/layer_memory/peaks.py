"""MLX's counters, and its peak memory between two readings.

MLX has one peak counter for the process, and whoever resets it takes it from everybody else. So it is reset here
alone: `mx.get_peak_memory` and `mx.reset_peak_memory` become functions that answer as they always did, from what was
read before each reset.
"""

import threading
from typing import Any

import mlx.core as mx

_lock = threading.Lock()


class _Counter:
    """MLX's own functions, and the highest that they said since somebody else's reset."""

    def __init__(self) -> None:
        self.get = mx.get_peak_memory
        self.reset = mx.reset_peak_memory
        self.highest = 0
        self.intervals: list[PeakInterval] = []

    def turn(self) -> None:
        """Reads the counter into everybody's account and begins anew. Under the lock."""
        read = int(self.get())
        self.reset()
        self.highest = max(self.highest, read)
        for interval in self.intervals:
            interval.highest = max(interval.highest, read)


class PeakInterval:
    """The peak since the last time that this one was asked. Each model has one; they do not disturb each other."""

    def __init__(self) -> None:
        self.highest = 0
        with _lock:
            _installed().intervals.append(self)

    def take(self) -> int:
        """The peak since the last call, in bytes."""
        with _lock:
            counter = _installed()
            counter.turn()
            highest, self.highest = self.highest, 0
            return highest

    def close(self) -> None:
        """Takes it out of the account. Safe to call twice."""
        with _lock:
            intervals = _installed().intervals
            if self in intervals:
                intervals.remove(self)


_counter: _Counter | None = None


def _installed() -> _Counter:
    global _counter
    if _counter is None:
        _counter = _Counter()
        functions: Any = mx  # MLX's stubs do not let a name be set
        functions.get_peak_memory = _peak_memory
        functions.reset_peak_memory = _reset_peak_memory
    return _counter


def _peak_memory() -> int:
    """The maximum amount of used memory in bytes, since the beginning of the program or the last reset."""
    with _lock:
        counter = _installed()
        return max(counter.highest, int(counter.get()))


def _reset_peak_memory() -> None:
    """Resets the peak memory to zero."""
    with _lock:
        counter = _installed()
        # An interval goes on over somebody else's reset.
        counter.turn()
        counter.highest = 0
