"""Tells whoever asked how far the prefill of a request is, each time upstream's own tracker is told.

It counts the chunks of each model, as a sign of life, and knows of no request but those subscribed to.
"""

import importlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwledger_omlx.fork.load import LoadedFork

Progress = Callable[[int, int], object]
"""`(processed, total)`, in prompt tokens; what it returns is dropped."""

_log = logging.getLogger("hwledger_omlx.fork")
# Read on the inference thread without a lock: a single dict lookup is atomic, and writers replace single entries.
_subscribers: dict[str, Progress] = {}
_failed = threading.Event()
_chunks: Counter[str] = Counter()


def subscribe(request_id: str, callback: Progress) -> None:
    """Has `callback(processed, total)` called after each chunk of the request's prefill, in prompt tokens.

    It runs on the inference thread, which does nothing else meanwhile: hand over and return. One callback per request;
    a second one replaces the first. What it raises is logged, once, and goes no further.
    """
    _subscribers[request_id] = callback


def unsubscribe(request_id: str) -> None:
    """Ends the subscription; nothing happens where there is none."""
    _subscribers.pop(request_id, None)


def chunks_of(model_name: str) -> int:
    """Chunks of prefill that models of that name, the last part of their path, have made in this process."""
    return _chunks[model_name]


def update(wrapped: Callable[..., Any], instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.prefill_progress:PrefillProgressTracker.update`."""
    result = wrapped(*args, **kwargs)
    _tell(*args, **kwargs)
    return result


def _tell(request_id: str, processed: int, total: int, model_id: str = "", *_: Any, **__: Any) -> None:
    _chunks[model_id] += 1
    callback = _subscribers.get(request_id)
    if callback is None:
        return
    try:
        callback(int(processed), int(total))
    except Exception:  # noqa: BLE001
        # The scheduler's step must not fail for what a subscriber does.
        if not _failed.is_set():
            _failed.set()
            _log.exception("a prefill progress callback raised; later failures are not logged")


def self_test(loaded: "LoadedFork") -> str | None:
    """Upstream's tracker must work as without the hook, and the subscriber must hear what it was told."""
    tracker = importlib.import_module("omlx.prefill_progress").PrefillProgressTracker()
    heard: list[tuple[int, int]] = []
    subscribe("self-test", lambda processed, total: heard.append((processed, total)))
    try:
        tracker.update("self-test", 3, 9, "model")
        tracker.update("another", 1, 2, "model")
        tracker.update(request_id="self-test", processed=6, total=9, model_id="model")
        listed = {each["request_id"]: each["processed"] for each in tracker.get_model_progress("model")}
        tracker.update("self-test", 9, 9, "model")
    finally:
        unsubscribe("self-test")
    tracker.update("self-test", 1, 9, "model")
    if listed != {"self-test": 6, "another": 1}:
        return f"upstream's tracker lists {listed}"
    if heard != [(3, 9), (6, 9), (9, 9)]:
        return f"the subscriber heard {heard}"
    return None
