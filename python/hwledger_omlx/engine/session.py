"""One engine on an event loop and a thread of its own. `Engine`, `AsyncEngine` and the Rust host are faces of it.

The fork's pool, its locks and its engine loop are bound to one event loop. Giving them a loop of ours, `loop`'s, makes
the engine the same from a script, from a notebook whose loop runs already, from any async framework, and from Rust.
Nothing here waits for a caller: events go to a `deliver` function on the loop's thread.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hwledger_omlx._native import KvPolicy, LayerMemory
from hwledger_omlx.cache.cache import Cache, Prompt
from hwledger_omlx.engine import exit as process_exit
from hwledger_omlx.engine import images, kv_policy, memory, model_folder, progress, upstream
from hwledger_omlx.engine import ledger as request_ledger
from hwledger_omlx.engine.address import address_of
from hwledger_omlx.engine.config import EngineConfig
from hwledger_omlx.engine.generation import LoadedModel
from hwledger_omlx.engine.kv_cache import KvCache, folder_of, open_cache
from hwledger_omlx.engine.kv_policy import KvSetting
from hwledger_omlx.engine.loaded_models import LoadedModels
from hwledger_omlx.engine.loop import EngineLoop
from hwledger_omlx.engine.model_folder import ModelFolder
from hwledger_omlx.engine.model_kind import called
from hwledger_omlx.engine.model_pool import ModelPool
from hwledger_omlx.engine.one_shot import OneShot
from hwledger_omlx.engine.request import GenerateRequest
from hwledger_omlx.engine.running import Deliver, RunningRequests
from hwledger_omlx.errors import (
    EngineClosedError,
    EngineError,
    Error,
    ModelError,
    ModelTaskError,
    RequestError,
)
from hwledger_omlx.fork.load import LoadedFork, load
from hwledger_omlx.memory.ledger import Ledger
from hwledger_omlx.memory.plan import predict
from hwledger_omlx.memory.report import MemoryReport

__all__ = ["Deliver", "EngineConfig", "Session"]

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Session:
    """An engine that is not started yet; `start` loads the fork and the model, `close` releases everything."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._models = LoadedModels()
        self._running: RunningRequests | None = None
        self._kv_cache: KvCache | None = None
        self._ledger: Ledger | None = None
        self._folders = request_ledger.ModelFolders()
        self._starting = threading.Lock()
        self._fork: LoadedFork | None = None
        self._pool: ModelPool | None = None
        self._loop = EngineLoop()

    # -- life cycle ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Loads the fork, and the configured model if there is one. Blocks until the engine takes requests.

        Raises:
            ForkError: no usable fork.
            ModelError: no such model, or one that cannot be loaded.
            EngineError: the KV cache cannot be kept where it should be.
            ForeignFolderError: another program's cache is there.
        """
        with self._starting:
            if self.closed:
                raise EngineClosedError("this engine was closed; open a new one")
            if self._loop.started:
                return
            folder = None if self.config.model is None else model_folder.locate(self.config.model)
            self._fork = load(self.config.fork)
            for name in ("scheduler", "engine_pool", "engine.batched"):
                upstream.module(name)
            self._fork.confirm()
            self._loop.start()
            process_exit.close_at_exit(self)
            try:
                self._kv_cache = open_cache(self.config, self._address)
                self._ledger = request_ledger.open_ledger(self.config, self._folders, predict)
                self.run(self._open_pool())
                if folder is not None:
                    self._load_watched(folder)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Cancels what runs, flushes the cache, unloads every model and ends the thread.

        Safe to call twice and from several threads: each call returns when all is done.
        """
        self._loop.close(self._shut_down, lambda: process_exit.is_closed(self))

    async def _open_pool(self) -> None:
        self._running = running = RunningRequests(self.config.max_concurrent_requests)
        self._pool = ModelPool(
            self.config,
            self._opened_cache,
            self._models,
            folders=self._folders,
            hooks=self.fork.hooks,
            end_requests=running.end_all,
        )

    async def _shut_down(self) -> None:
        if self._running is not None:
            await self._running.end_all()
        try:
            if self._pool is not None:
                await self._pool.close()
                self._pool = None
        finally:
            if self._kv_cache is not None:
                await asyncio.to_thread(self._kv_cache.close)
            if self._ledger is not None:
                await asyncio.to_thread(request_ledger.close, self._ledger)

    # -- what it is ---------------------------------------------------------------------------------------------

    @property
    def fork(self) -> LoadedFork:
        """The fork in use, with the state of each hook."""
        if self._fork is None:
            raise EngineError("the engine was not started")
        return self._fork

    @property
    def cache(self) -> Cache:
        """The KV cache, whatever kind it is of."""
        return self._opened_cache.face

    @property
    def ledger(self) -> Ledger:
        """Where the requests are recorded, or why they are not."""
        if self._ledger is None:
            raise EngineError("the engine was not started")
        return self._ledger

    @property
    def cache_dir(self) -> Path | None:
        """Folder of the KV cache; None where none was wanted."""
        return folder_of(self.config)

    @property
    def _opened_cache(self) -> KvCache:
        if self._kv_cache is None:
            raise EngineError("the engine was not started")
        return self._kv_cache

    @property
    def models(self) -> dict[str, ModelFolder]:
        """The loaded models of every kind by id."""
        return {model_id: model.folder for model_id, model in self.loaded_of_any_kind.items()}

    @property
    def loaded(self) -> dict[str, LoadedModel]:
        """The loaded models that generate text by id, with the fork's engine of each."""
        return self._models.generating

    @property
    def loaded_of_any_kind(self) -> dict[str, LoadedModel]:
        """The loaded models by id, with the fork's engine of each."""
        return self._models.of_any_kind

    @property
    def one_shot(self) -> OneShot:
        """What models do that answer a request in one piece; its methods run on the engine's loop: see `run`."""
        return OneShot(self.loaded_of_any_kind)

    @property
    def pool(self) -> Any:
        """The fork's `EnginePool`, for use on the engine's loop.

        Raises:
            EngineError: the engine was not started, or is closed.
        """
        return self._opened_pool.of_fork

    @property
    def _opened_pool(self) -> ModelPool:
        if self._pool is None:
            with self._loop.held:
                self._loop.require_open()
            raise EngineError("the engine was not started")
        return self._pool

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._loop.closed

    # -- models -------------------------------------------------------------------------------------------------

    def load(self, model: str | Path, *, context_tokens: int | None = None) -> str:
        """Loads a further model and returns its id. A model that is there already is left as it is, its limit apart.

        Args:
            model: a folder, or a Hugging Face id where online.
            context_tokens: most tokens of a prompt and its answer together, within what the model allows; 0 for that,
                None for what was set before, if anything was.

        Raises:
            ModelError: no such model, one that cannot be loaded, or another one of the same name is loaded.
            ModelTaskError: it generates no text, and so has no such limit. It is not loaded then.
        """
        return self._load_watched(model_folder.locate(model), context_tokens)

    def unload(self, model_id: str) -> None:
        """Cancels the model's requests and releases its memory.

        Raises:
            ModelError: no model of that id is loaded.
        """
        self.run(self._opened_pool.unload(model_id))

    def _load_watched(self, folder: ModelFolder, context_tokens: int | None = None) -> str:
        show = progress.wanted(self.config.progress)
        with progress.loading(folder.model_id, folder.weights_bytes, upstream.active_bytes, show=show):
            return self.run(self._opened_pool.load(folder, context_tokens))

    # -- KV policies --------------------------------------------------------------------------------------------

    def set_kv_policy(self, policy: KvSetting, model_id: str | None = None) -> None:
        """Has requests that begin from now on run at a policy; those that run go on as they are.

        Raises:
            KvPolicyError: it is no policy, or a model cannot take it. Then nothing has changed.
            ModelError: no model of that id is loaded.
        """
        parsed, pool = kv_policy.parse(policy), self._opened_pool
        self.run(pool.set_kv_policies(parsed, {}) if model_id is None else pool.set_kv_policy(parsed, model_id))

    async def set_kv_policies(self, policy: KvPolicy, of_models: Mapping[str, KvPolicy]) -> None:
        """Has requests that begin from now on run at a policy, or at that of their model; on the engine's loop.

        Raises:
            KvPolicyError: a model cannot take its policy. Then nothing has changed.
        """
        await self._opened_pool.set_kv_policies(policy, of_models)

    def kv_policy_of(self, model_id: str | None = None) -> str:
        """The policy at which new requests of a model run, layer by layer where it was solved for.

        Raises:
            ModelError: no model of that id is loaded.
        """
        return kv_policy.in_force(self._models.named(model_id, ModelError).placed)

    # -- memory -------------------------------------------------------------------------------------------------

    def memory(self) -> MemoryReport:
        """Where the engine's memory goes now, and the highest it went.

        Raises:
            EngineError: the engine was not started, or before the process forked.
            EngineClosedError: it was closed.
        """
        with self._loop.held:
            self._loop.require_open()
            models = list(self.loaded.values())
        return memory.report(models, self.cache, self.fork.hooks)

    def memory_ledgers(self) -> list[LayerMemory]:
        """The ledgers of the models that are loaded now; none when the engine is closed."""
        with self._loop.held:
            return [] if self.closed else memory.ledgers(list(self.loaded.values()))

    async def between_loads(self, work: Callable[[], None]) -> None:
        """Does something on the engine's loop while none of the engine's models is being loaded or unloaded."""
        await self._opened_pool.between_loads(work)

    def _address(self, prompt: Prompt, model_id: str | None, tenant: str) -> tuple[bytes, Iterable[int]]:
        """Where the KV of a prompt is: its namespace and its tokens."""
        return address_of(self._models.named(model_id, ModelError), prompt, tenant)

    # -- requests -----------------------------------------------------------------------------------------------

    def submit(self, request: GenerateRequest, deliver: Deliver) -> str:
        """Starts a request and returns its id at once. May be called from any thread.

        Args:
            request: the checked request.
            deliver: takes each event on the engine's thread and must not block; the last is a `DoneEvent`, or the
                exception that ended the request.
        """
        self._loop.call_soon(self._begin, request, deliver)
        return request.request_id

    def cancel(self, request_id: str) -> bool:
        """Ends a request; its stream closes with finish reason `cancelled`. False where none of that id runs."""

        async def end() -> bool:
            return self._requests.end(request_id)

        return self.run(end())

    def give_up(self, request_id: str) -> None:
        """Ends a request that nobody listens to any more, where it still runs.

        Does not wait, so a finalizer may call it on any thread, the engine's own included.
        """
        with contextlib.suppress(EngineError):
            self._loop.call_soon(self._requests.end, request_id)

    def _begin(self, request: GenerateRequest, deliver: Deliver) -> None:
        try:
            if self.closed:
                raise EngineClosedError("the engine was closed before it took the request")
            model = self._models.named(request.model, RequestError)
            if model.placed.kind != "vision" and images.present_in(request.prompt):
                raise ModelTaskError(f"{model.folder.model_id} takes no images: it is {called(model.placed.kind)}")
            self._requests.begin(model, request, deliver)
        except Error as error:
            deliver(error)

    @property
    def _requests(self) -> RunningRequests:
        if self._running is None:
            raise EngineError("the engine was not started")
        return self._running

    # -- the loop -----------------------------------------------------------------------------------------------

    def begin(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Has a coroutine run on the engine's loop. Ends with the engine, at the latest.

        Raises:
            EngineClosedError: the engine is closed.
        """
        return self._loop.begin(work)

    def ask_loop(self) -> concurrent.futures.Future[None] | None:
        """Has the engine's loop answer when it next has time; None where it is not started yet, or closed."""

        async def answer() -> None: ...

        try:
            return self.begin(answer())
        except Error:
            return None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that runs on the engine's loop; waits, so call it on another thread.

        Raises:
            EngineClosedError: the engine is closed, or was meanwhile.
        """
        return self._loop.run(work)
