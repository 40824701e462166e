"""How many calls are under way: a bound, and the wait for the last one."""

import threading

from hwledger_omlx.errors import EngineError


class Calls:
    """Counts the calls that have begun and not ended."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._changed = threading.Condition()

    def begin(self) -> None:
        """One more.

        Raises:
            EngineError: there are as many as there may be.
        """
        with self._changed:
            if self._count >= self._most:
                raise EngineError(
                    f"{self._most} calls are under way, and no more are taken; wait for one of them to end"
                )
            self._count += 1

    def end(self) -> None:
        """One less."""
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def wait_for_none(self, at_most_s: float) -> bool:
        """Waits until none is under way, or for so long. Whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count == 0, at_most_s)
