"""What is known of one request of the fork while it is under way, and the record that it leaves. Knows no scheduler."""

import time
import weakref
from collections.abc import Sequence
from typing import Any

from hwledger_omlx.hooks.layer_memory import naming
from hwledger_omlx.hooks.layer_memory.requests import RequestRecord

_CELL_NUMBERS, _ALLOCATED = 4, 1


class Track:
    """One request under way.

    Args:
        request: the fork's.
        number: the ledger's.
        kv_policy: at which it begins.
        arrived_s: on the monotonic clock.
        arrived_unix_s: since 1970.
        chunk_tokens: of a chunk of prefill, at most.
    """

    def __init__(
        self, request: Any, number: int, kv_policy: str, arrived_s: float, arrived_unix_s: float, chunk_tokens: int
    ) -> None:
        self.request = request
        self.fork_id = str(request.request_id)
        self.number = number
        self.kv_policy = kv_policy
        self.caches: Sequence[Any] | None = None
        """Those it is prefilled on, for as long as a piece of that lasts: kept longer, they would keep their memory."""
        self.state: weakref.ref[Any] | None = None
        """Of a prefill in steps; it has the caches."""
        self.chunks = 0
        self.batch_peak = 0
        self.cells: Sequence[int] = ()
        """In the latest sample."""
        self._arrived_s, self._arrived_unix_s = arrived_s, arrived_unix_s
        self._chunk_tokens = chunk_tokens
        self._began_s: float | None = None
        self._prefilled_s: float | None = None
        self._first_s: float | None = None
        self._completion_tokens = 0
        self._pieces = 0

    @property
    def length(self) -> int:
        """Tokens of the prompt and of the answer so far."""
        return int(self.request.num_prompt_tokens) + len(self.request.output_token_ids)

    def live_caches(self) -> Sequence[Any] | None:
        """The caches that its prompt is being computed on; None where they are in the batch, or not known."""
        state = None if self.state is None else self.state()
        if state is not None:
            caches: Sequence[Any] = state.cache
            return caches
        return self.caches

    @property
    def begun(self) -> bool:
        """Whether its turn has come."""
        return self._began_s is not None

    @property
    def restored_whole(self) -> bool:
        """Whether no piece of its prompt had to be computed before it came into the batch."""
        return not self._pieces and bool(self.request.cached_tokens)

    def begin(self) -> None:
        """Its turn has come."""
        self._began_s = time.monotonic()

    def begin_piece(self, caches: Sequence[Any] | None) -> bool:
        """Its prompt, or a piece of it, is about to be computed. Tells whether it is the first piece."""
        self.caches = caches
        self._pieces += 1
        return self._pieces == 1

    def end_prefill(self) -> None:
        """Its prompt, or a piece of it, is computed."""
        self.caches = None
        self._prefilled_s = time.monotonic()

    def answered(self, output: Any) -> None:
        """The fork has given something out."""
        if output.new_token_ids and self._first_s is None:
            self._first_s = time.monotonic()
        self._completion_tokens = max(self._completion_tokens, int(output.completion_tokens))

    def record(self, *, model_id: str, finish_reason: str, peak_bytes: int, weights_bytes: int) -> RequestRecord:
        """What became of it."""
        ended_s = time.monotonic()
        began_s = self._began_s
        request = self.request
        allocated = (each for each in self.cells[_ALLOCATED::_CELL_NUMBERS] if each > 0)
        return RequestRecord(
            request_id=naming.request_id_of(self.fork_id),
            model_id=model_id,
            kv_policy=self.kv_policy,
            prompt_tokens=int(request.num_prompt_tokens),
            cached_tokens=int(request.cached_tokens or 0),
            completion_tokens=max(self._completion_tokens, len(request.output_token_ids)),
            finish_reason=finish_reason,
            arrived_unix_s=self._arrived_unix_s,
            queue_s=(ended_s if began_s is None else began_s) - self._arrived_s,
            prefill_s=0.0 if began_s is None or self._prefilled_s is None else self._prefilled_s - began_s,
            ttft_s=0.0 if self._first_s is None else self._first_s - self._arrived_s,
            decode_s=0.0 if self._first_s is None else ended_s - self._first_s,
            total_s=ended_s - self._arrived_s,
            batch_peak=self.batch_peak,
            kv_bytes=sum(allocated),
            peak_bytes=peak_bytes,
            weights_bytes=weights_bytes,
            chunk_tokens=self._chunk_tokens,
        )
