"""The fork's pool of models: what is loaded into it, by us or by the fork's own server, and how each model is held.

Lives on the engine's loop. Knows nothing of requests, but that those of a model end before it goes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from hwledger_omlx._native import KvPolicy
from hwledger_omlx.engine import kv_policy, memory, upstream, watched_pool
from hwledger_omlx.engine.adoption import adopted
from hwledger_omlx.engine.config import EngineConfig
from hwledger_omlx.engine.generation import LoadedModel
from hwledger_omlx.engine.kv_cache import KvCache, folder_of
from hwledger_omlx.engine.ledger import ModelFolders
from hwledger_omlx.engine.loaded_models import LoadedModels
from hwledger_omlx.engine.model_folder import ModelFolder
from hwledger_omlx.engine.model_kind import GENERATING, ModelKind, called
from hwledger_omlx.errors import ModelError, ModelTaskError
from hwledger_omlx.fork.verify import HookReport


class ModelPool:
    """An empty pool. To be made on the engine's loop.

    Args:
        config: the engine's.
        cache: what the models keep their KV in.
        models: has what is loaded, and is changed here alone.
        folders: is told of each folder that text is generated from.
        hooks: what became of each.
        end_requests: ends those of one model, and waits for that.
    """

    def __init__(
        self,
        config: EngineConfig,
        cache: KvCache,
        models: LoadedModels,
        *,
        folders: ModelFolders,
        hooks: Sequence[HookReport],
        end_requests: Callable[[str], Awaitable[None]],
    ) -> None:
        self._cache = cache
        self._models = models
        self._folders = folders
        self._hooks = hooks
        self._end_requests = end_requests
        self._kv_policy, self._kv_policies = config.kv_policy, config.kv_policies
        # The pool's own lock does not cover its list of models, which each load makes anew.
        self._lock = asyncio.Lock()
        self.of_fork: Any = upstream.open_pool(
            fork_cache_dir=folder_of(config) if config.cache == "fork" else None,
            paged_cache=cache.binding,
            max_concurrent_requests=config.max_concurrent_requests,
        )
        """The fork's `EnginePool`."""
        watched_pool.watch(self.of_fork, loaded=self._adopt, unloading=self._let_go)

    async def close(self) -> None:
        """Unloads every model and ends the pool."""
        for model_id in self._models.of_any_kind:
            await upstream.unload_model(self.of_fork, model_id)
        await self.of_fork.shutdown()

    async def load(self, folder: ModelFolder, context_tokens: int | None) -> str:
        """Has the model of a folder loaded, and limits its context; see `Session.load`."""
        async with self._lock:
            model_id = folder.model_id
            every = self._models.of_any_kind
            present = every.get(model_id)
            if present is None:
                found = upstream.discovered(self.of_fork, folder, [model.placed.root for model in every.values()])
                _check_limit(model_id, found.kind, context_tokens)
                await upstream.load_model(self.of_fork, folder, found)
            elif present.folder.path != folder.path:
                raise ModelError(
                    f"a model named {model_id} is loaded from {present.folder.path}; unload it first, or rename "
                    "one of the folders"
                )
            else:
                _check_limit(model_id, present.placed.kind, context_tokens)
            if context_tokens is not None and model_id in self._models.generating:
                self._models.limit_context(model_id, context_tokens)
            return model_id

    async def unload(self, model_id: str) -> None:
        """Cancels the model's requests and releases its memory.

        Raises:
            ModelError: no model of that id is loaded.
        """
        async with self._lock:
            if not model_id:
                raise ModelError("unload takes the id of a loaded model")
            if model_id not in self._models.of_any_kind:
                self._models.named(model_id, ModelError)  # says what there is
            await upstream.unload_model(self.of_fork, model_id)
            await asyncio.to_thread(self._cache.flush)

    async def between_loads(self, work: Callable[[], None]) -> None:
        """Does something while no model is being loaded or unloaded."""
        async with self._lock:
            work()

    async def set_kv_policy(self, policy: KvPolicy, model_id: str) -> None:
        """Has requests of one model that begin from now on run at a policy, until it is unloaded.

        Raises:
            KvPolicyError: the model cannot take it. Nothing has changed then.
            ModelError: no model of that id is loaded.
        """
        async with self._lock:
            model = self._models.named(model_id, ModelError)
            (await self._fitted(policy, model)).put_in_force()

    async def set_kv_policies(self, policy: KvPolicy, of_models: Mapping[str, KvPolicy]) -> None:
        """Has requests that begin from now on run at a policy, or at that of their model, loaded or not.

        Raises:
            KvPolicyError: a model cannot take its policy. Nothing has changed then.
        """
        async with self._lock:
            fitted = [
                await self._fitted(of_models.get(model_id, policy), model)
                for model_id, model in self._models.generating.items()
            ]
            for each in fitted:
                each.put_in_force()
            self._kv_policy, self._kv_policies = policy, dict(of_models)

    async def _fitted(self, policy: KvPolicy, model: LoadedModel) -> kv_policy.Fitted:
        return await kv_policy.fit(policy, model.folder, model.placed, self._hooks)

    async def _adopt(self, model_id: str) -> None:
        """Takes in a model that the pool has loaded, for us or for a request of the fork's server."""

        def policy() -> KvPolicy:
            return self._kv_policies.get(model_id, self._kv_policy)

        model = await adopted(self.of_fork, model_id, self._cache, policy, self._hooks)
        if model.placed.generates:
            self._folders.add(model.folder)
            memory.begin(model, self._hooks)
        self._models.add(model)

    async def _let_go(self, model_id: str) -> None:
        """Ends what runs on a model that the pool is about to unload."""
        removed = self._models.remove(model_id)
        if removed is not None and removed.placed.generates:
            await self._end_requests(model_id)


def _check_limit(model_id: str, kind: ModelKind, context_tokens: int | None) -> None:
    if context_tokens and kind not in GENERATING:
        raise ModelTaskError(
            f"{model_id} is {called(kind)}, which does not generate text: its context cannot be limited"
        )
