"""What became of each request, told when it ends to whoever asked. Of all requests of the fork, its own server's too.

Light: imports neither MLX nor the fork.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

_log = logging.getLogger("hwledger_omlx.fork")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request, from its arrival to its end. Times in seconds; those of what never came are 0."""

    request_id: str
    model_id: str
    kv_policy: str
    """At which it began."""
    prompt_tokens: int
    cached_tokens: int
    """Of them, restored."""
    completion_tokens: int
    finish_reason: str
    """`stop`, `length`, `cancelled` or `error`."""
    arrived_unix_s: float
    queue_s: float
    """From its arrival to the beginning of its prefill."""
    prefill_s: float
    ttft_s: float
    """From its arrival to its first token."""
    decode_s: float
    """From its first token to its end."""
    total_s: float
    batch_peak: int
    """Most requests that were at work beside it, itself included."""
    kv_bytes: int
    """Allocated for its keys, values and states at its end."""
    peak_bytes: int
    """MLX's peak memory while it was at work."""
    weights_bytes: int
    chunk_tokens: int
    """Tokens of a chunk of prefill, at most."""


Listener = Callable[[RequestRecord], object]
"""Takes a record on the inference thread, which does nothing else meanwhile; what it returns is dropped."""

_lock = threading.Lock()
# Replaced as a whole, so that telling takes no lock.
_listeners: tuple[Listener, ...] = ()
_failed = threading.Event()


def subscribe(callback: Listener) -> Callable[[], None]:
    """Has `callback(record)` called when a request ends, on the inference thread: hand over and return.

    What it raises is logged, once, and goes no further.

    Returns:
        What ends the subscription; safe to call twice.
    """
    global _listeners

    # One for each subscription, so that a callback that was subscribed twice is called twice, and ended once at a time.
    def listener(record: RequestRecord) -> object:
        return callback(record)

    with _lock:
        _listeners = (*_listeners, listener)

    def unsubscribe() -> None:
        global _listeners
        with _lock:
            _listeners = tuple(each for each in _listeners if each is not listener)

    return unsubscribe


def publish(record: RequestRecord) -> None:
    """Tells everybody."""
    for listener in _listeners:
        try:
            listener(record)
        except Exception:  # noqa: BLE001
            # The scheduler's step must not fail for what a listener does.
            if not _failed.is_set():
                _failed.set()
                _log.exception("a listener of finished requests raised; later failures are not logged")
