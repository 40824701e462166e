"""One server: an engine, the fork's application on it, and uvicorn on the engine's loop. Starts, waits and stops."""

import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from socket import socket
from types import TracebackType
from typing import Any, Self

import uvicorn

from hwledger_omlx.engine import model_folder
from hwledger_omlx.engine.session import Session
from hwledger_omlx.errors import EngineError
from hwledger_omlx.serve.app import ForkServer
from hwledger_omlx.serve.health import Health
from hwledger_omlx.serve.heartbeat import Heartbeat
from hwledger_omlx.serve.metrics import Metrics
from hwledger_omlx.serve.settings import ServerSettings
from hwledger_omlx.serve.turns import Turns
from hwledger_omlx.serve.watch import Watch
from hwledger_omlx.supervision import pipe_to_supervisor

_LONGEST_SLEEP_S = 0.25


class Server:
    """A server that is not started yet.

    Args:
        settings: what it may be told.
        reload: loads the configuration anew and says what has changed; None where there is none.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        reload: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self.settings = settings
        self.session = session = Session(settings.engine)
        self.heartbeat = Heartbeat(lambda: session.loaded, settings.stuck_after_s, ask_loop=session.ask_loop)
        self._watch = Watch(
            self.heartbeat,
            supervisor=pipe_to_supervisor(),
            restart_after_s=lambda: self.settings.restart_after_s,
            flush=self.flush,
        )
        self.health: Health | None = None
        self._reload = reload
        self._metrics: Metrics | None = None
        self._fork: ForkServer | None = None
        self._uvicorn: _Uvicorn | None = None
        self._serving: concurrent.futures.Future[None] | None = None
        self._address: tuple[str, int] | None = None

    def start(self) -> None:
        """Loads the models and serves. Returns when requests are taken; blocks to load.

        Raises:
            EngineError: the port cannot be listened on, or the process serves already.
            RequestError: the server would listen beyond this machine without an API key.
            Error: whatever `Session.start` and `Session.load` raise.
        """
        self._watch.start()
        try:
            listening = self.settings.listen()
        except BaseException:
            self._watch.stop()
            raise
        try:
            self._start(listening)
        except BaseException:
            listening.close()
            self.stop()
            raise

    def _start(self, listening: socket) -> None:
        session, settings = self.session, self.settings
        folders = [model_folder.locate(model) for model in settings.models]
        session.start()
        self._address = listening.getsockname()[:2]
        fork = self._fork = ForkServer(session, settings, self._address[1])
        session.run(_called(fork.prepare))
        for folder in folders:
            session.load(folder.path)
        session.run(_called(fork.offer))
        # Enough for a full batch and the next one, and so few that the fork's scheduler refuses none.
        turns = Turns(max(2 * session.config.max_concurrent_requests, 16))
        health = self.health = Health(session, self.heartbeat, turns.waiting)
        self._metrics = Metrics(session, health.versions, turns.waiting)
        serving = self._uvicorn = _Uvicorn(
            uvicorn.Config(
                fork.application(self._metrics, health, turns, self._reload),
                log_config=None,
                access_log=logging.getLogger("uvicorn.access").isEnabledFor(logging.DEBUG),
                lifespan="on",
                timeout_graceful_shutdown=_whole_s(settings.shutdown_s),
            )
        )
        self._serving = session.begin(serving.serve([listening]))
        self._serving.add_done_callback(lambda _: serving.ready.set())
        serving.ready.wait()
        if self._serving.done():
            self._serving.result()
            raise EngineError("the server ended while it started")

    @property
    def url(self) -> str:
        """Where it listens."""
        if self._address is None:
            raise EngineError("the server was not started")
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def model_ids(self) -> list[str]:
        """Every model that a request may name, loaded or not."""
        return [] if self._fork is None else self._fork.model_ids

    def foretell(self, settings: ServerSettings) -> None:
        """Has models that are loaded from now on be as they are to be; before `reconfigure`, which says the rest.

        Raises:
            ConfigError: the fork cannot take a setting. Nothing has changed then.
        """
        fork = self._fork
        if fork is not None:
            self.session.run(self.session.between_loads(lambda: fork.foretell(settings)))

    def reconfigure(self, settings: ServerSettings) -> None:
        """Has other settings count from now on. Address, key and engine stay; models are the caller's to load.

        Raises:
            ConfigError: the fork cannot take a setting. Nothing has changed then.
        """
        fork, serving = self._fork, self._uvicorn
        if fork is None or serving is None:
            raise EngineError("the server was not started")
        self.session.run(self.session.between_loads(lambda: fork.reconfigure(settings)))
        self.settings = settings
        self.heartbeat.stuck_after_s = settings.stuck_after_s
        serving.config.timeout_graceful_shutdown = _whole_s(settings.shutdown_s)

    def offer(self) -> None:
        """Has requests find the models that are loaded now, and those of the folders."""
        if self._fork is not None:
            self.session.run(self.session.between_loads(self._fork.offer))

    def end_soon(self) -> None:
        """Has the server take no more requests and end with those under way. Does not wait; a signal handler may."""
        self._watch.ending()
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True

    def wait(self) -> None:
        """Returns when the server has ended.

        Raises:
            Exception: whatever ended it before its time.
        """
        serving = self._serving
        if serving is not None:
            # Python runs signal handlers on the main thread, which sleeps through a signal that comes just before it
            # begins to wait for a lock; so it never sleeps for long.
            while not concurrent.futures.wait([serving], timeout=_LONGEST_SLEEP_S).done:
                pass
            serving.result()

    def flush(self) -> None:
        """Has the KV cache write to the disk what it has accepted. Does not need the engine's thread."""
        self.session.cache.flush()

    def stop(self) -> None:
        """Ends the server: answers under way have `shutdown_s`; then the engine is closed. Safe to call twice."""
        try:
            self.end_soon()
            with contextlib.suppress(Exception):  # `wait` has said it, or `start` has
                self.wait()
        finally:
            if self._metrics is not None:
                self._metrics.close()
            self.session.close()
            fork, self._fork = self._fork, None
            if fork is not None:
                fork.release()
            self._watch.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Uvicorn(uvicorn.Server):
    """Tells when it takes requests, and never ends the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit as error:
            raise EngineError("the fork's application could not start; its own log says why") from error
        self.ready.set()


def _whole_s(seconds: float) -> int:
    """As uvicorn takes them."""
    return max(1, round(seconds))


async def _called(function: Callable[[], None]) -> None:
    """On the engine's loop, which the fork's locks are bound to."""
    function()
