"""Tells listeners of every request that ended: finished, cancelled or failed. Knows nothing of what they do with it."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """A request that ended. Times are seconds, sizes bytes."""

    request_id: str
    model_id: str
    kv_policy: str
    prompt_tokens: int
    cached_tokens: int
    """Tokens of the prompt whose KV was restored."""
    completion_tokens: int
    finish_reason: str
    arrival_unix_s: float
    queue_s: float
    prefill_s: float
    ttft_s: float
    decode_s: float
    total_s: float
    batch_peak: int
    """Most requests that ran beside it, itself included."""
    kv_bytes: int
    """Allocated at its end."""
    peak_bytes: int
    """Peak of MLX's memory while it ran."""
    weights_bytes: int
    chunk_tokens: int
    """Most tokens of a chunk of prefill."""


Listener = Callable[[RequestRecord], None]
"""Called on the thread that ended the request; must not block."""

_listeners: list[Listener] = []
_lock = threading.Lock()


def subscribe(listener: Listener) -> Callable[[], None]:
    """Has `listener` told of every request that ends from now on, until the function that is returned is called."""
    with _lock:
        _listeners.append(listener)

    def unsubscribe() -> None:
        with _lock:
            if listener in _listeners:
                _listeners.remove(listener)

    return unsubscribe


def publish(record: RequestRecord) -> None:
    """Tells every listener. What one of them raises is logged and keeps neither the request nor the others."""
    with _lock:
        listeners = list(_listeners)
    for listener in listeners:
        try:
            listener(record)
        except Exception:
            logger.exception("a listener failed on request %s", record.request_id)
