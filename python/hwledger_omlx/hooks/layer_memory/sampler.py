"""Takes the samples of one scheduler: when, what the time before was spent on, and whose caches are whose.

Everything runs between two steps of the model, on the thread that runs them. Whatever goes wrong here is counted and
told in the report; the request goes on.
"""

import functools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, cast

import mlx.core as mx
from mlx.utils import tree_flatten

from hwledger_omlx._native import LayerMemory
from hwledger_omlx.hooks.layer_caches.dial import dial_of
from hwledger_omlx.hooks.layer_memory import attached, naming, requests
from hwledger_omlx.hooks.layer_memory.peaks import PeakInterval
from hwledger_omlx.hooks.layer_memory.track import Track
from hwledger_omlx.hooks.layer_memory.walk import UNKNOWN, Walk
from hwledger_omlx.hooks.paged_cache.binding import Binding

DECODE_STEPS = 16
"""Steps of decoding between two samples. `hwledger-omlx bench memory` measures what they cost."""

IDLE, RESTORE, PREFILL, JOIN, DECODE = range(5)
WAITING, IN_PREFILL, IN_DECODE = range(3)

P = ParamSpec("P")
_log = logging.getLogger("hwledger_omlx.fork")


def _sparing(method: Callable[P, None]) -> Callable[P, None]:
    """What the method raises is counted, and logged once; nobody else hears of it."""

    @functools.wraps(method)
    def spared(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:  # noqa: BLE001
            # A request must not fail for what is only told of it.
            cast("Sampler", args[0]).failed(error)

    return spared


class Sampler:
    """The samples of one scheduler.

    Args:
        model_id: a name for the model.
        decode_steps: steps of decoding between two samples.
    """

    def __init__(self, model_id: str, *, decode_steps: int = DECODE_STEPS) -> None:
        self.ledger = LayerMemory(model_id, decode_steps=decode_steps)
        self.decode_steps = decode_steps
        self.weights_bytes = 0
        self._walk = Walk(self.ledger)
        self._interval = PeakInterval()
        self._tracks: dict[str, Track] = {}
        self._at_work: dict[str, Track] = {}
        self._joining: dict[str, Track] = {}  # not in the batch yet
        self._steps = 0
        # The array by which a batch is seen to have grown: its layer, and its bytes.
        self._probe: tuple[int, int] | None = None
        self._logged = threading.Event()

    @classmethod
    def of(cls, scheduler: Any) -> "Sampler":
        """One for a scheduler that was just made."""
        sampler = cls(Path(str(scheduler.config.model_name)).name)
        sampler.weigh(scheduler.model)
        bound = Binding.of(scheduler.config)
        if bound is not None:
            sampler.ledger.watch_store(bound.store)
        return sampler

    @_sparing
    def weigh(self, model: Any) -> None:
        """Adds up the model's parameters."""
        try:
            arrays = [array for _, array in tree_flatten(model.parameters())]
        except (AttributeError, TypeError) as error:
            self.ledger.set_weights_bytes(None, f"the model does not list its parameters: {error}")
            return
        self.weights_bytes = sum(int(array.nbytes) for array in arrays)
        self.ledger.set_weights_bytes(self.weights_bytes)

    def failed(self, error: Exception) -> None:
        """Counts what went wrong, and logs it the first time."""
        self.ledger.failed(f"{type(error).__name__}: {error}")
        if not self._logged.is_set():
            self._logged.set()
            _log.warning("a sample of the layers' memory could not be taken; further ones are counted", exc_info=error)

    # -- the life of a request --------------------------------------------------------------------------------

    @_sparing
    def arrives(self, scheduler: Any, request: Any) -> None:
        """A request was taken into the queue."""
        fork_id = str(request.request_id)
        policy = dial_of(scheduler).policy
        self.ledger.set_kv_policy(policy)
        number = self.ledger.begin(naming.request_id_of(fork_id), int(request.num_prompt_tokens), policy)
        # When the fork made the request: to get here it waited for the inference thread, which may have been busy
        # with others for seconds.
        arrived_s = float(request.arrival_time)
        arrived_unix_s = time.time() - (time.monotonic() - arrived_s)
        chunk_tokens = int(scheduler.config.prefill_step_size)
        track = Track(request, number, policy, arrived_s, arrived_unix_s, chunk_tokens)
        self._tracks[fork_id] = self._joining[fork_id] = track

    @_sparing
    def begins(self, scheduler: Any, request: Any) -> None:
        """It is the request's turn: it will be restored, as far as it goes, and the rest of its prompt computed."""
        track = self._tracks.get(str(request.request_id))
        if track is not None and not track.begun:
            self._begin(scheduler, track)

    @_sparing
    def prefill_begins(self, scheduler: Any, request: Any, caches: Any) -> None:
        """A prompt, or a further piece of it, is about to be computed on these caches."""
        track = self._tracks.get(str(request.request_id))
        if track is None:
            return
        if not track.begun:
            self._begin(scheduler, track)
        first = track.begin_piece(caches)
        if first and request.cached_tokens:
            self.ledger.advance(track.number, IN_PREFILL, int(request.cached_tokens))
            self._sample_spared(scheduler, RESTORE, track)

    def _begin(self, scheduler: Any, track: Track) -> None:
        # What was before belongs to the others.
        self._sample_spared(scheduler, DECODE if scheduler.running else IDLE, None)
        track.begin()
        self._at_work[track.fork_id] = track
        for each in self._at_work.values():
            each.batch_peak = max(each.batch_peak, len(self._at_work))
        self.ledger.advance(track.number, IN_PREFILL, int(track.request.cached_tokens or 0))

    @_sparing
    def prefill_steps(self, request: Any, state: Any) -> None:
        """The prompt will be computed in steps, whose state holds its caches."""
        track = self._tracks.get(str(request.request_id))
        if track is not None:
            track.state = weakref.ref(state)

    @_sparing
    def chunk(self, scheduler: Any, fork_id: str) -> None:
        """A chunk of a prompt was computed."""
        track = self._tracks.get(fork_id)
        if track is None:
            return
        track.chunks += 1
        if track.caches is None:
            track.caches = attached.prefill_caches(track.request)
        self._sample_spared(scheduler, PREFILL, track)

    @_sparing
    def prefill_ends(self, scheduler: Any, request: Any, caches: Any) -> None:
        """The prompt, or a piece of it, is on these caches; None where that failed."""
        track = self._tracks.get(str(request.request_id))
        if track is None:
            return
        if caches is not None and not track.chunks:
            track.caches = caches
            self._sample_spared(scheduler, PREFILL, track)
        track.end_prefill()

    @_sparing
    def stepped(self, scheduler: Any, outputs: Sequence[Any]) -> None:
        """The scheduler has made a step."""
        if not self._tracks:
            return
        self._steps += 1
        joined = self._joined(scheduler) if self._joining else None
        ended = [each for each in outputs if each.finished]
        if joined or ended or (self._steps % self.decode_steps == 0 and scheduler.running) or self._grew(scheduler):
            first = joined[0] if joined else None
            phase = DECODE if first is None else RESTORE if first.restored_whole else JOIN
            self._sample_spared(scheduler, phase, first)
        for each in outputs:
            track = self._tracks.get(each.request_id)
            if track is not None:
                track.answered(each)
        for each in ended:
            self.end(each.request_id, "error" if each.error else str(each.finish_reason))

    def _joined(self, scheduler: Any) -> list[Track]:
        joined = [track for fork_id, track in self._joining.items() if fork_id in scheduler.running]
        for track in joined:
            del self._joining[track.fork_id]
            if not track.begun:
                self._begin(scheduler, track)
            if track.state is not None:
                track.end_prefill()
                track.state = None
            self.ledger.advance(track.number, IN_DECODE, int(track.request.cached_tokens or 0))
        return joined

    @_sparing
    def look(self, scheduler: Any) -> None:
        """Takes a sample between two steps, as before and after a request is given up."""
        if self._tracks:
            self._sample_spared(scheduler, DECODE if scheduler.running else PREFILL, None)

    @_sparing
    def end(self, fork_id: str, reason: str) -> None:
        """A request is gone; tells who asked."""
        track = self._tracks.pop(fork_id, None)
        self._at_work.pop(fork_id, None)
        self._joining.pop(fork_id, None)
        said = naming.take_end(fork_id)
        if track is None:
            return
        peak_bytes = self.ledger.end(track.number)
        requests.publish(
            track.record(
                model_id=self.ledger.model_id,
                finish_reason=said or reason,
                peak_bytes=peak_bytes or 0,
                weights_bytes=self.weights_bytes,
            )
        )

    @_sparing
    def end_lost(self, scheduler: Any, fork_ids: Iterable[str]) -> None:
        """These requests failed together, and their batch is gone."""
        for fork_id in fork_ids:
            self.end(fork_id, "error")
        self._sample_spared(scheduler, IDLE, None)

    # -- samples ----------------------------------------------------------------------------------------------

    @_sparing
    def _sample_spared(self, scheduler: Any, phase: int, track: Track | None) -> None:
        # By itself, so that a request is let go all the same.
        self._sample(scheduler, phase, track)

    def _sample(self, scheduler: Any, phase: int, track: Track | None) -> None:
        walk = self._walk
        walk.clear()
        batches = scheduler.batch_generator
        if batches is not None:
            self._walk_batches(scheduler, batches)
        for each in self._joining.values():
            caches = each.live_caches()
            if caches and each.number not in walk.by_request:
                walk.add_own(each.number, caches)
        for each in self._at_work.values():
            cells = walk.by_request.get(each.number)
            if cells:
                each.cells = cells
        active = mx.get_active_memory()
        chunk = track.chunks if track is not None and phase == PREFILL else 0
        self.ledger.record(
            phase,
            0 if track is None else track.number,
            chunk,
            active,
            mx.get_cache_memory(),
            # A counter that was just reset knows only of what was allocated since.
            max(self._interval.take(), active),
            walk.rows,
            walk.cells,
        )

    def _walk_batches(self, scheduler: Any, batches: Any) -> None:
        names = scheduler.uid_to_request_id
        for batch in (batches._generation_batch, batches._prompt_batch):
            if batch.uids:
                tracks = [self._tracks.get(names.get(uid, "")) for uid in batch.uids]
                self._walk.add_batch(
                    [0 if track is None else track.number for track in tracks],
                    [UNKNOWN if track is None else track.length for track in tracks],
                    batch.prompt_cache,
                )
        for sequence in batches._unprocessed_sequences:
            waiting = self._tracks.get(names.get(sequence[0], ""))
            self._walk.add_own(0 if waiting is None else waiting.number, sequence[3])
        self._probe = self._probe_of(batches._generation_batch.prompt_cache)

    def _probe_of(self, caches: Sequence[Any]) -> tuple[int, int] | None:
        for layer, cache in enumerate(caches):
            keys = getattr(cache, "keys", None)
            if keys is not None and not hasattr(cache, "max_size"):
                return layer, keys.nbytes
        return None

    def _grew(self, scheduler: Any) -> bool:
        """Whether the batch has other arrays than at the last sample. A look at one array, for each step pays it."""
        if self._probe is None or scheduler.batch_generator is None:
            return False
        layer, nbytes = self._probe
        caches = scheduler.batch_generator._generation_batch.prompt_cache
        keys = getattr(caches[layer], "keys", None) if layer < len(caches) else None
        return keys is not None and bool(keys.nbytes != nbytes)
