"""The thread that watches over a server: tells of what is stuck, and gives its supervisor the heartbeat.

It is none of the engine's, so that it goes on where the engine hangs. Where the interpreter itself hangs it falls
silent, and the supervisor (rust/core/src/supervise) knows.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable

from hwledger_omlx import signals
from hwledger_omlx._native import beat_byte
from hwledger_omlx.serve.heartbeat import Heartbeat, Stuck

logger = logging.getLogger(__name__)


class Watch:
    """Looks at a heartbeat every now and then, from `start` to `stop`.

    Args:
        heartbeat: what to look at.
        supervisor: the writing end of the supervisor's pipe; None where nobody supervises this process.
        restart_after_s: says for how long it may be stuck before it asks its supervisor for a new start.
        flush: has done what a new start should find; called before it.
    """

    def __init__(
        self,
        heartbeat: Heartbeat,
        *,
        supervisor: int | None = None,
        restart_after_s: Callable[[], float],
        flush: Callable[[], object] = lambda: None,
    ) -> None:
        self._heartbeat = heartbeat
        self._supervisor = supervisor
        self._restart_after_s = restart_after_s
        self._flush = flush
        self._told: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hwledger-heartbeat", daemon=True)

    def start(self) -> None:
        """Begins. To be called once."""
        self._thread.start()

    def ending(self) -> None:
        """The server was told to end, and keeps to a deadline of its own: the supervisor has nothing more to expect."""
        self._beat("ending")

    def stop(self) -> None:
        """Ends the thread. Safe to call twice, and before `start`."""
        self._over.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            self._heartbeat.look()
            stuck = self._heartbeat.stuck()
            self._tell(stuck)
            self._beat("well")
            longest_s = max((each.for_s for each in stuck), default=0.0)
            if self._supervisor is not None and longest_s >= self._restart_after_s():
                self._give_up(longest_s)
                return
            self._over.wait(self._heartbeat.pause_s)

    def _tell(self, stuck: tuple[Stuck, ...]) -> None:
        names = {each.model_id for each in stuck}
        for each in stuck:
            if each.model_id not in self._told:
                logger.error("stuck: %s: %s", each.model_id or "the engine", each.why)
        for name in self._told - names:
            logger.warning("not stuck any more: %s", name or "the engine")
        self._told = names

    def _give_up(self, stuck_s: float) -> None:
        logger.error("stuck for %.0f s: the supervisor is asked for a new start", stuck_s)
        signals.flush_for_a_while(self._flush)
        self._beat("stuck")

    def _beat(self, kind: str) -> None:
        if self._supervisor is None:
            return
        try:
            os.write(self._supervisor, beat_byte(kind))
        except OSError:
            # Nobody would start this process again or end it, and nobody knows that it is there.
            logger.error("the supervisor is gone, and this server ends too")
            self._supervisor = None
            signals.end(signal.SIGTERM)
