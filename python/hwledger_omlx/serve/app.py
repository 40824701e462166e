"""The fork's FastAPI application on the pool of our engine, with `/metrics` and `/health` of ours before it.

The one place of `serve/` that knows the names of the fork's server. Everything here runs on the engine's loop.
"""

import argparse
import contextlib
import hmac
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from hwledger_omlx.engine import upstream
from hwledger_omlx.engine.session import Session
from hwledger_omlx.errors import EngineError, Error, StoreError
from hwledger_omlx.fork.home import fork_home
from hwledger_omlx.serve.admin import cache_panel, speeds
from hwledger_omlx.serve.bodies import CheckedBodies
from hwledger_omlx.serve.failures import AnthropicErrors, CutShort, failed
from hwledger_omlx.serve.health import Health
from hwledger_omlx.serve.metrics import Metrics
from hwledger_omlx.serve.overlay import ModelOverlay, Overlay
from hwledger_omlx.serve.settings import ServerSettings
from hwledger_omlx.serve.turns import Turns


class ForkServer:
    """The fork's server module, set up for one engine. There is one application in a process.

    Args:
        session: a started engine, without models.
        settings: the server's.
        port: where it listens.
    """

    def __init__(self, session: Session, settings: ServerSettings, port: int) -> None:
        self._session = session
        self._wanted = settings
        self._port = port
        with _root_logger_kept():
            self._server: Any = upstream.module("server")
        self._state = upstream.attribute(self._server, "_server_state")
        if self._state.engine_pool is not None:
            raise EngineError("this process has a server already; the fork has one application: start another process")
        self._app: FastAPI = upstream.attribute(self._server, "app")
        self._middleware = list(self._app.user_middleware)
        self._routes = list(self._app.router.routes)
        self._context_limit = upstream.attribute(self._server, "get_max_context_window")
        self._engine_class: Any = upstream.attribute(upstream.module("engine.batched"), "BatchedEngine")
        self._stream_generate = upstream.attribute(self._engine_class, "stream_generate")
        self._settings: Any = None
        self._overlay: Overlay | None = None
        self._models: ModelOverlay | None = None
        self._folders: list[str] = []

    def prepare(self) -> None:
        """Reads the settings of the admin page and has the fork set up its application. No model is loaded yet.

        Raises:
            RequestError: the server would listen beyond this machine without an API key.
        """
        # It has the API key in plain text.
        fork_home().mkdir(parents=True, exist_ok=True)
        fork_home().chmod(0o700)
        wanted = self._wanted
        given = argparse.Namespace(
            host=wanted.host,
            port=self._port,
            max_concurrent_requests=self._session.config.max_concurrent_requests,
        )
        settings = upstream.module("settings").init_settings(base_path=fork_home(), cli_args=given)
        # Those may have come from the variables of the user's own server.
        settings.cache.ssd_cache_dir = settings.logging.log_dir = None
        wanted.check_key(wanted.api_key or settings.auth.api_key)
        settings.ensure_directories()
        self._settings = settings
        self._overlay = Overlay(settings, wanted)
        self._folders = [str(folder) for folder in settings.model.get_model_dirs(settings.base_path)]
        self._app.middleware_stack = None
        self._server.init_server(model_dirs=self._folders, api_key=settings.auth.api_key, global_settings=settings)
        self._app.add_exception_handler(Error, failed)
        self._app.get("/v1/models/{model_id}", dependencies=[Depends(self._server.verify_api_key)])(self._read_model)
        self._server.get_max_context_window = self._context_tokens
        self._engine_class.stream_generate = _failing_aloud(self._stream_generate)
        # In place of the pool that it has made: one engine, one pool. Settings of a model count from its loading on.
        self._state.engine_pool = self._session.pool
        self._overlay.attach(self._state)
        self._models = ModelOverlay(self._state.settings_manager, wanted.fork)
        self._state.settings_manager = self._session.pool._settings_manager = self._models

    def offer(self) -> None:
        """Has the fork offer the loaded models, and those of the folders, which it loads when they are asked for."""
        pool, manager, loaded = self._session.pool, self._state.settings_manager, self._session.loaded
        roots = [str(model.placed.root) for model in loaded.values()]
        pool.discover_models([*roots, *self._folders], manager.get_pinned_model_ids())
        pool.apply_settings_overrides(manager)
        if self._models is not None:
            self._models.check_ids(pool.get_model_ids())
        chosen = manager.get_default_model_id()
        self._state.default_model = chosen if chosen in pool.get_model_ids() else next(iter(loaded), None)

    def foretell(self, wanted: ServerSettings) -> None:
        """Says of models what is to count when they are loaded; they may be none that is served yet.

        Raises:
            ConfigError: the fork has no such setting, or does not take the value. Nothing has changed then.
        """
        if self._models is not None:
            self._models.put(wanted.fork)

    def reconfigure(self, wanted: ServerSettings) -> None:
        """Has other settings count from now on; where they cannot, what was in force stays so.

        Raises:
            ConfigError: the fork has no such setting, or does not take the value; or there is no such model.
        """
        before = self._wanted
        try:
            self._put(wanted)
        except Error:
            self._put(before)
            raise

    def _put(self, wanted: ServerSettings) -> None:
        if self._overlay is None or self._models is None:
            raise EngineError("the server was not started")
        self._wanted = wanted
        self._models.put(wanted.fork)
        self._overlay.put(wanted)
        self._folders = [str(folder) for folder in self._settings.model.get_model_dirs(self._settings.base_path)]
        self.offer()

    @property
    def model_ids(self) -> list[str]:
        """Every model that a request may name."""
        return list(self._session.pool.get_model_ids())

    def application(
        self, metrics: Metrics, health: Health, turns: Turns, reload: Callable[[], Mapping[str, Any]] | None
    ) -> ASGIApp:
        """What is served. `reload` loads the configuration anew and says what has changed."""

        @contextlib.asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            async with self._server.lifespan(self._app):
                yield

        # What the fork's own routes raise, ours may: the page's way to its login, for one.
        handlers = dict(self._app.exception_handlers)
        outer = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, exception_handlers=handlers)

        # Not `async`: FastAPI runs it on a thread of its own, and the engine's loop goes on.
        @outer.get("/metrics", dependencies=[Depends(self._server.verify_api_key)])
        def read_metrics(request: Request) -> Response:
            body, media_type = metrics.exposition(request.headers.get("accept", ""))
            return Response(body, media_type=media_type)

        @outer.get("/health")
        async def read_health() -> JSONResponse:
            said = {**await self._server.health(), **await run_in_threadpool(health.report)}
            return JSONResponse(said, status_code=503 if said["status"] == "stuck" else 200)

        if reload is not None:

            @outer.post("/admin/api/config/reload", dependencies=[Depends(self._owner)])
            def reload_configuration() -> JSONResponse:
                try:
                    return JSONResponse(dict(reload()))
                except Error as error:
                    return JSONResponse({"error": {"message": str(error), "type": type(error).__name__}}, 400)

        self._add_to_admin_page(outer, metrics)
        outer.mount("/", self._app)
        served = _V1Too(AnthropicErrors(CutShort(CheckedBodies(outer, turns, self._model_id))))
        return served if self._wanted.is_local else _KeyRequired(served, self._settings)

    def _add_to_admin_page(self, outer: FastAPI, metrics: Metrics) -> None:
        """Has the admin page show our metrics, and show and clear our cache; the fork's own is off then."""
        session, page = self._session, upstream.module("admin.routes")
        admin = [Depends(upstream.attribute(page, "require_admin"))]
        config = session.config.paged_cache
        is_ours = session.cache.kind == "paged"

        @outer.get("/admin/api/stats", dependencies=admin)
        async def read_stats(model: str = "", scope: str = "session") -> dict[str, Any]:
            said: dict[str, Any] = await page.get_server_stats(model=model, scope=scope, is_admin=True)
            asked = upstream.attribute(self._server, "resolve_model_id")(model) if model else None
            totals = metrics.totals(each for each in session.loaded if asked in (None, each))
            if scope == "session":
                said |= speeds(totals.values())
            if is_ours:
                with contextlib.suppress(StoreError):  # it is being closed
                    said["runtime_cache"] = cache_panel(
                        said["runtime_cache"],
                        info=await run_in_threadpool(session.cache.info),
                        stats=session.cache.stats(),
                        hot_limit_bytes=0 if config is None else config.hot_bytes,
                        totals=totals,
                    )
            return said

        if not is_ours:
            return

        @outer.post("/admin/api/ssd-cache/clear", dependencies=admin)
        def clear() -> dict[str, Any]:
            purged = session.cache.purge()
            return {"status": "ok", "total_deleted": purged.blocks + purged.snapshots}

        @outer.post("/admin/api/hot-cache/clear", dependencies=admin)
        def clear_hot() -> None:
            raise HTTPException(400, "the hot tier has no copy of its own to forget: clear the SSD cache, or let it be")

    async def _read_model(self, model_id: str) -> dict[str, Any]:
        """One model, as OpenAI's `GET /v1/models/{id}` has it; the fork has the list only."""
        listed = await self._server.list_models(True)
        for each in listed.data:
            if each.id == model_id:
                return dict(each.model_dump())
        known = ", ".join(each.id for each in listed.data)
        raise HTTPException(404, f"Model '{model_id}' not found. Available models: {known}")

    def _context_tokens(self, model_id: str | None = None) -> int | None:
        """Most tokens of a prompt: what the fork's settings allow, and no more than the model was made for."""
        allowed: int | None = self._context_limit(model_id)
        model = self._session.loaded.get(self._model_id(model_id or ""))
        own = None if model is None else model.context_tokens
        return min((each for each in (allowed, own) if each), default=None)

    def _model_id(self, name: str) -> str:
        """The id of the model that is meant; of the default one where none is named."""
        return str(upstream.attribute(self._server, "resolve_model_id")(name) or self._state.default_model or "")

    async def _owner(self, request: Request) -> None:
        """Lets those in who have the key itself, none made from it, or are logged in to the admin page."""
        key = self._settings.auth.api_key
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        logged_in = upstream.attribute(upstream.module("admin.auth"), "verify_session")
        if key and not hmac.compare_digest(given.encode(), key.encode()) and not logged_in(request):
            raise HTTPException(401, "the API key of the server is required")

    def release(self) -> None:
        """Leaves the fork's application as it was found, so that this process may serve again."""
        self._server.get_max_context_window = self._context_limit
        self._engine_class.stream_generate = self._stream_generate
        self._app.router.routes[:] = self._routes
        self._app.user_middleware[:] = self._middleware
        self._app.middleware_stack = None
        self._server._server_state.__init__()


def _failing_aloud(stream_generate: Callable[..., AsyncGenerator[Any]]) -> Callable[..., AsyncGenerator[Any]]:
    """The fork's method, which ends a stream that the engine failed at as if the answer had come to its end."""

    async def generate(engine: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any]:
        async with contextlib.aclosing(stream_generate(engine, *args, **kwargs)) as outputs:
            async for output in outputs:
                if output.finish_reason == "error":
                    raise EngineError(output.new_text.strip() or "the engine failed at this answer; its log says why")
                yield output

    return generate


class _V1Too:
    """Has everything under `/v1` at `/api/v1` too, where some clients of Anthropic's API look for it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/api/v1/"):
            path = scope["path"].removeprefix("/api")
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)


class _KeyRequired:
    """Takes back what the admin page lets its user do: to have everybody in without a key."""

    def __init__(self, app: ASGIApp, settings: Any) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._settings.auth.skip_api_key_verification = False
        await self._app(scope, receive, send)


@contextlib.contextmanager
def _root_logger_kept() -> Iterator[None]:
    """The fork's server sets the root logger up when it is imported; a library leaves that to its user."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
