"""What each model has as soon as the pool has loaded it, for the engine or for a request of the fork's own server.

Knows one model at a time; nothing of requests.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from hwledger_omlx._native import KvPolicy
from hwledger_omlx.engine import kv_policy, model_folder, upstream
from hwledger_omlx.engine.generation import LoadedModel
from hwledger_omlx.engine.kv_cache import KvCache
from hwledger_omlx.fork.verify import HookReport
from hwledger_omlx.hooks.paged_cache.binding import attached

logger = logging.getLogger(__name__)


async def adopted(
    pool: Any, model_id: str, cache: KvCache, policy: Callable[[], KvPolicy], hooks: Sequence[HookReport]
) -> LoadedModel:
    """The model as the engine knows it; one that generates text, at the KV policy in force.

    Args:
        pool: has just loaded it.
        model_id: the pool's name for it.
        cache: the engine's.
        policy: what is in force when it is asked.
        hooks: what became of each.

    Raises:
        KvPolicyError: the model cannot take the policy.
        EngineError: the patch that would carry the policy out is not in use.
        ModelError: the folder is none that the engine takes.
    """
    placed = upstream.placed_in(pool, model_id)
    folder = model_folder.locate(placed.root)
    if not placed.generates:
        return LoadedModel(folder, placed)
    # The fork swallows what goes wrong with its cache, and a hook that was refused attaches none.
    if cache.face.kind == "fork" and not upstream.has_fork_cache(placed):
        logger.warning("%s runs without a KV cache: the fork could not open it", model_id)
    if cache.store is not None and attached(upstream.scheduler_of(placed)) is None:
        logger.warning("%s runs without a KV cache: patch 003-paged-cache is not in use", model_id)
    while True:
        wanted = policy()
        fitted = await kv_policy.fit(wanted, folder, placed, hooks)
        if wanted is policy():  # it may have been changed meanwhile
            break
    fitted.put_in_force()
    return LoadedModel(folder, placed)
