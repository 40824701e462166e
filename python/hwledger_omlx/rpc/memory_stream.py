"""`memory` notifications: the samples of the engine's memory as they are taken, while the client wants them.

The samples wait in the ledgers' rings, not here: for a client that reads slowly, those that went by are counted.
"""

import threading
import time
from dataclasses import asdict
from typing import Any

from hwledger_omlx._native import RpcConnection
from hwledger_omlx.engine.session import Session
from hwledger_omlx.memory.events import MemoryEvents
from hwledger_omlx.memory.records import MemoryEvent
from hwledger_omlx.rpc.answering import text_of

_ROOM_S = 0.25


class MemoryStream:
    """Sends samples from a thread of its own, between `start` and `stop`."""

    def __init__(self, session: Session, connection: RpcConnection) -> None:
        self._session = session
        self._connection = connection
        self._lock = threading.Lock()
        self._ended: threading.Event | None = None

    def start(self, min_interval_s: float) -> None:
        """Begins to send; a second call only changes the interval.

        Args:
            min_interval_s: least time between two samples of a model; those between are counted in `missed`.
        """
        with self._lock:
            self._stop()
            ended = self._ended = threading.Event()
            # Made here, so that every sample from now on is in it.
            events = MemoryEvents(self._session.memory_ledgers, lambda: self._session.closed or ended.is_set())
            samples = _Samples(min_interval_s)
            threading.Thread(
                target=self._send, args=(events, samples, ended), name="hwledger-rpc-memory", daemon=True
            ).start()

    def stop(self) -> bool:
        """Ends it. Whether it ran."""
        with self._lock:
            return self._stop()

    def _stop(self) -> bool:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.set()
        return ended is not None

    def _send(self, events: MemoryEvents, samples: "_Samples", ended: threading.Event) -> None:
        for event in events:
            said = samples.take(event, time.monotonic())
            while said is not None and not ended.is_set() and self._connection.broken is None:
                if self._connection.wait_for_room(_ROOM_S):
                    self._connection.notify("memory", text_of(said))
                    break


class _Samples:
    """Makes notifications of samples: drops those that come too soon, and adds what takes more than one to know."""

    def __init__(self, min_interval_s: float) -> None:
        self._min_interval_s = min_interval_s
        self._sent_s: dict[str, float] = {}
        self._skipped: dict[str, int] = {}
        self._faults: dict[str, tuple[float, int]] = {}
        self._prefill_peaks: dict[str, int] = {}

    def take(self, event: MemoryEvent, now_s: float) -> dict[str, Any] | None:
        """The notification's parameters, or None where the last one was sent too short a time ago."""
        model = event.model_id
        if event.phase == "prefill" and event.mlx_peak_bytes is not None:
            self._prefill_peaks[model] = max(self._prefill_peaks.get(model, 0), event.mlx_peak_bytes)
        if now_s - self._sent_s.get(model, -self._min_interval_s) < self._min_interval_s:
            self._skipped[model] = self._skipped.get(model, 0) + 1 + event.missed
            return None
        self._sent_s[model] = now_s
        fields = asdict(event)
        fields["missed"] += self._skipped.pop(model, 0)
        fields["layers"] = [
            {"layer": layer, "kv_bytes": count} for layer, count in enumerate(fields.pop("layer_bytes"))
        ]
        fields["prefill_peak_bytes"] = self._prefill_peaks.get(model)
        fields["page_faults_per_s"] = self._faults_per_s(event)
        return fields

    def _faults_per_s(self, event: MemoryEvent) -> float | None:
        """Since the notification before; None for the first, and where faults are not known."""
        if event.page_faults is None:
            return None
        before = self._faults.get(event.model_id)
        self._faults[event.model_id] = (event.unix_s, event.page_faults)
        if before is None or event.unix_s <= before[0]:
            return None
        return max(0, event.page_faults - before[1]) / (event.unix_s - before[0])
