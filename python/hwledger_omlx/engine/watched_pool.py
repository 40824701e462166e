"""The fork's pool, telling of every model that it loads and unloads, whoever asked for it.

The fork's own server loads a model when a request names it, and unloads another one for it. Such a model needs the same
care as one that the engine loads itself. Knows the pool; nothing of what is done with a model.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hwledger_omlx.engine.upstream import attribute, load_failure, module
from hwledger_omlx.errors import ModelError
from hwledger_omlx.fork import threads

Told = Callable[[str], Awaitable[None]]
"""Takes the pool's name of a model, and is awaited under the pool's lock."""


def watch(pool: Any, *, loaded: Told, unloading: Told) -> None:
    """Has a pool tell of its models. What `loaded` raises unloads the model, and goes to whoever asked for it.

    What a load fails of becomes a `ModelError`, but for the pool's own errors, which the fork's server understands.
    """
    own_errors = attribute(module("exceptions"), "EnginePoolError")
    load, unload = attribute(pool, "_load_engine"), attribute(pool, "_unload_engine")

    async def load_engine(pool_id: str, *args: Any, **kwargs: Any) -> None:
        try:
            await load(pool_id, *args, **kwargs)
        except own_errors:
            raise
        except Exception as error:
            # mlx-lm and the fork raise what their parsers raise: KeyError, ValueError, RuntimeError, ...
            raise _failure(pool.get_entry(pool_id), error) from error
        threads.end_without_streams(_core(pool, pool_id))
        try:
            await loaded(pool_id)
        except BaseException:
            await unload_engine(pool_id)
            raise

    async def unload_engine(pool_id: str) -> None:
        if getattr(pool.get_entry(pool_id), "engine", None) is not None:
            await unloading(pool_id)
        # The fork drops this store with its thread still running, so it is ended from here.
        snapshots = _snapshot_store(pool, pool_id)
        await unload(pool_id)
        if snapshots is not None:
            await asyncio.to_thread(snapshots.shutdown)

    pool._load_engine = load_engine
    pool._unload_engine = unload_engine


def _failure(entry: Any, error: Exception) -> ModelError:
    kind = getattr(entry, "config_model_type", "") or entry.model_type
    return ModelError(load_failure(Path(entry.model_path).resolve(), kind, error))


def _core(pool: Any, pool_id: str) -> Any:
    """The `EngineCore` of a loaded model that generates text; None of another one."""
    engine = getattr(pool.get_entry(pool_id), "engine", None)
    return getattr(getattr(engine, "_engine", None), "engine", None)


def _snapshot_store(pool: Any, pool_id: str) -> Any:
    # Not in `unload_engine`, where a variable would keep the scheduler while the fork waits for the memory.
    return getattr(getattr(_core(pool, pool_id), "scheduler", None), "_boundary_snapshot_store", None)
