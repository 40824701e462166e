"""The fork's threads that own MLX streams give them back before they end.

MLX 0.32 aborts a process (`terminate called without an active exception`) where such a thread is still ending while the
process does. Releases of the fork before 0.7 end an engine's thread as it is, and each leaves the one that all engines
share to the interpreter.
"""

import contextlib
import sys
from concurrent.futures import Executor
from typing import Any


def end_without_streams(core: Any) -> None:
    """Has the thread of an `EngineCore`, where it has one of its own, give its streams back when it is shut down."""
    executor = getattr(core, "_mlx_executor", None)
    if executor is None:
        return
    shutdown = executor.shutdown

    def released_first(*args: Any, **kwargs: Any) -> None:
        with contextlib.suppress(RuntimeError):  # it was shut down before
            _release(executor)
        shutdown(*args, **kwargs)

    executor.shutdown = released_first


def release_global_thread() -> None:
    """Has the thread that all engines share give its streams back; the last thing that a process does with engines."""
    executor = getattr(sys.modules.get("omlx.engine_core"), "_global_mlx_executor", None)
    if executor is not None:
        _release(executor)


def _release(executor: Executor) -> None:
    mlx = sys.modules.get("mlx.core")
    if mlx is None or not hasattr(mlx, "clear_streams"):
        return

    def release() -> None:
        mlx.synchronize()
        mlx.clear_streams()

    executor.submit(release).result()
