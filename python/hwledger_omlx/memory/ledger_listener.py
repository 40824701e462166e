"""The way of a request into the ledger: told on the engine's thread, predicted and handed over on a thread of its own.

Knows the planner as a function only.
"""

import dataclasses
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from hwledger_omlx._native import Ledger as NativeLedger
from hwledger_omlx.errors import Error, LedgerClosedError, LedgerError
from hwledger_omlx.hooks.layer_memory import requests
from hwledger_omlx.hooks.layer_memory.requests import RequestRecord
from hwledger_omlx.memory.ledger_reconcile import RuntimeFit
from hwledger_omlx.memory.ledger_row import LedgerRow
from hwledger_omlx.memory.ledger_stats import LedgerStats
from hwledger_omlx.memory.runtime import Runtime

logger = logging.getLogger(__name__)

FolderOf = Callable[[str], Path | None]
"""From the id of a model to its folder; None of one that is somebody else's."""

TERMS = ("weights", "kv", "state", "activations", "runtime")
"""What a prediction is the sum of."""

_QUEUE_REQUESTS = 1024


class Predict(Protocol):
    """The planner: what a batch of equal requests would take, by term."""

    def __call__(
        self,
        model_folder: Path,
        tokens: int,
        concurrency: int,
        kv_policy: str,
        chunk_tokens: int,
        /,
        *,
        answer_tokens: int,
        runtime: Runtime | None,
    ) -> Mapping[str, Any]:
        """`{"weights": {"bytes": ..., "source": ...}, ..., "peak_bytes": ..., "kv_bytes": ...}`.

        Args:
            model_folder: the model.
            tokens: of each request, prompt and answer.
            concurrency: requests of the batch.
            kv_policy: at which they ran.
            chunk_tokens: most tokens of a chunk of prefill.
            answer_tokens: of the tokens, those that were generated.
            runtime: what the runtime takes, where that was fitted.
        """


class Listener:
    """Listens from its making until `close`."""

    def __init__(self, ledger: NativeLedger, folder_of: FolderOf, predict: Predict | None, device: str) -> None:
        self._ledger = ledger
        self._folder_of = folder_of
        self._predict = predict
        self._device = device
        self._ended: queue.Queue[tuple[RequestRecord, Path] | None] = queue.Queue(_QUEUE_REQUESTS)
        self._closing = threading.Lock()
        self._closed = False
        self._said: set[str] = set()
        self._dropped = {"queue_full": 0, "no_row": 0}
        self._thread = threading.Thread(target=self._run, name="hwledger-ledger", daemon=True)
        self._thread.start()
        self._unsubscribe = requests.subscribe(self._take)

    def counted_in(self, stats: LedgerStats) -> LedgerStats:
        """The ledger's statistics with what became of the requests before they reached it."""
        dropped = dict(stats.dropped_rows)
        for reason, count in self._dropped.items():
            if count:
                dropped[reason] = dropped.get(reason, 0) + count
        return dataclasses.replace(
            stats, queued_rows=stats.queued_rows + self._ended.unfinished_tasks, dropped_rows=dropped
        )

    def flush(self) -> None:
        """Returns when every request told of before has reached the ledger."""
        self._ended.join()

    def close(self) -> None:
        """Listens no more, and returns when every request told of has reached the ledger. Safe to call twice."""
        self._unsubscribe()
        with self._closing:
            first, self._closed = not self._closed, True
        if first:
            self._ended.put(None)
        self._thread.join()

    def _take(self, record: RequestRecord) -> None:
        # On the engine's thread: the model may be unloaded by the time the ledger's has come to it.
        folder = self._folder_of(record.model_id)
        if folder is None:
            return
        # Behind the end of the queue nobody would take it out. The lock is never held while something is waited for.
        with self._closing:
            if self._closed:
                return
            try:
                self._ended.put_nowait((record, folder))
            except queue.Full:
                self._drop("queue_full", "requests end faster than they can be predicted and written")

    def _run(self) -> None:
        while (ended := self._ended.get()) is not None:
            try:
                self._record(*ended)
            finally:
                self._ended.task_done()
        self._ended.task_done()

    def _record(self, record: RequestRecord, folder: Path) -> None:
        try:
            self._ledger.record(self._row(record, folder).to_native())
        except LedgerClosedError:
            self._drop("no_row", "the ledger was closed before its listener")
        except (LedgerError, TypeError, ValueError) as error:
            self._drop("no_row", f"request {record.request_id}: {error}")

    def _drop(self, reason: str, why: str) -> None:
        if not self._dropped[reason]:
            logger.warning("requests are not recorded: %s", why)
        self._dropped[reason] += 1

    def _row(self, record: RequestRecord, folder: Path) -> LedgerRow:
        predicted: dict[str, int | None] = {}
        error: str | None = None
        try:
            predicted = self._predicted(record, folder)
        except Error as raised:
            error = str(raised)
        except Exception as raised:
            # A mistake of the planner's must not cost the row, nor this thread.
            kind = type(raised).__name__
            error = f"{kind}: {raised}"
            if kind not in self._said:
                self._said.add(kind)
                logger.exception("request %s could not be predicted", record.request_id)
        return LedgerRow(
            request_id=record.request_id,
            model=record.model_id,
            device=self._device,
            kv_policy=record.kv_policy,
            finish_reason=record.finish_reason,
            arrived_unix_s=record.arrived_unix_s,
            prompt_tokens=record.prompt_tokens,
            cached_tokens=record.cached_tokens,
            completion_tokens=record.completion_tokens,
            queue_s=record.queue_s,
            # What never came is 0 there.
            prefill_s=record.prefill_s or None,
            ttft_s=record.ttft_s or None,
            decode_s=record.decode_s if record.ttft_s else None,
            total_s=record.total_s,
            batch_peak=record.batch_peak,
            chunk_tokens=record.chunk_tokens,
            weights_bytes=record.weights_bytes or None,
            kv_bytes=record.kv_bytes,
            peak_bytes=record.peak_bytes or None,
            predicted_weights_bytes=predicted.get("weights"),
            predicted_kv_bytes=predicted.get("kv"),
            predicted_state_bytes=predicted.get("state"),
            predicted_activations_bytes=predicted.get("activations"),
            predicted_runtime_bytes=predicted.get("runtime"),
            predicted_peak_bytes=predicted.get("peak"),
            prediction_error=error,
        )

    def _predicted(self, record: RequestRecord, folder: Path) -> dict[str, int | None]:
        if self._predict is None:
            raise LedgerError("this ledger has no planner")
        computed = record.prompt_tokens - record.cached_tokens
        said = self._predict(
            folder,
            record.prompt_tokens + record.completion_tokens,
            max(1, record.batch_peak),
            record.kv_policy,
            # What was restored was not prefilled: the chunks were no longer than the rest of the prompt.
            max(1, min(record.chunk_tokens, computed)),
            answer_tokens=record.completion_tokens,
            # As a plan of now has it. Asked each time: another process may just have reconciled.
            runtime=RuntimeFit.runtime_of(self._ledger.fitted_runtime(record.model_id, self._device)),
        )
        predicted = {term: said[term]["bytes"] for term in TERMS}
        return {**predicted, "peak": said["peak_bytes"]}
