"""The life of a JSON-RPC server: it starts, reads and hands out calls, and ends with what is under way."""

import contextlib
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from hwledger_omlx import signals
from hwledger_omlx._native import RpcConnection, RpcRequest
from hwledger_omlx.engine import model_folder
from hwledger_omlx.engine.request_defaults import RequestDefaults
from hwledger_omlx.engine.session import Session
from hwledger_omlx.errors import EngineError, Error
from hwledger_omlx.rpc.answering import fail, refuse_unknown, succeed
from hwledger_omlx.rpc.descriptors import taken
from hwledger_omlx.rpc.fields import bind
from hwledger_omlx.rpc.method import Method
from hwledger_omlx.rpc.methods import METHODS
from hwledger_omlx.rpc.service import Service
from hwledger_omlx.rpc.settings import RpcSettings
from hwledger_omlx.serve.heartbeat import Heartbeat
from hwledger_omlx.serve.settings import ServerSettings

logger = logging.getLogger(__name__)

_LOOK_S = 0.25
"""Longest wait. Python runs signal handlers on the main thread, between two of its own steps."""
_SHORT_THREADS, _LONG_THREADS = 4, 8
_LEAST_S_TO_WRITE = 1.0

_servers: set["RpcServer"] = set()


def serve(settings: RpcSettings, input_fd: int = 0, output_fd: int = 1) -> int:
    """Serves one client until it closes its end of the input, or `end_soon` is called. Returns the exit status.

    Raises:
        EngineError: a descriptor is closed, or the client closed its end of the output while it was served.
        Error: whatever `Session.start` and `Session.load` raise.
    """
    return RpcServer(settings, input_fd, output_fd).run()


def end_soon() -> None:
    """Has every server of this process take no more calls and end. Does not wait; a signal handler may call it."""
    for server in list(_servers):
        server.end_soon()


class RpcServer:
    """A server that is not started yet.

    Args:
        settings: what it may be told.
        input_fd: where requests come from.
        output_fd: where all that is said goes.
    """

    def __init__(self, settings: RpcSettings, input_fd: int = 0, output_fd: int = 1) -> None:
        self.settings = settings
        self._descriptors = (input_fd, output_fd)
        self.session = session = Session(settings.engine)
        self.heartbeat = Heartbeat(lambda: session.loaded, settings.stuck_after_s, ask_loop=session.ask_loop)
        self._connection: RpcConnection | None = None
        self._ending = False

    def end_soon(self) -> None:
        """Has the server take no more calls and end with those under way. Does not wait; a signal handler may."""
        self._ending = True
        if self._connection is not None:
            self._connection.wake()

    def reconfigure(self, settings: ServerSettings) -> None:
        """Has those of the settings count from now on that this server has too: its times, and defaults of requests."""
        self.settings = replace(
            self.settings,
            defaults=RequestDefaults(settings.fork.sampling, settings.fork.models),
            shutdown_s=settings.shutdown_s,
            stuck_after_s=settings.stuck_after_s,
        )
        self.heartbeat.stuck_after_s = settings.stuck_after_s

    def run(self) -> int:
        """Serves; see `serve`."""
        _servers.add(self)
        try:
            with taken(*self._descriptors) as (reading, writing):
                settings = self.settings
                connection = self._connection = RpcConnection(
                    reading, writing, message_bytes=settings.message_bytes, queue_bytes=settings.queue_bytes
                )
                with self._started():
                    self._serve(Service(self.session, connection, lambda: self.settings, self.heartbeat))
                self._write_rest(connection)
        finally:
            _servers.discard(self)
        return 0

    @contextlib.contextmanager
    def _started(self) -> Iterator[None]:
        folders = [model_folder.locate(model) for model in self.settings.models]
        self.session.start()
        try:
            for folder in folders:
                if not self._ending:
                    self.session.load(folder.path)
            yield
        finally:
            # What runs is cancelled, and its answers go into the queue.
            self.session.close()

    def _serve(self, service: Service) -> None:
        with (
            ThreadPoolExecutor(_SHORT_THREADS, "hwledger-rpc") as short,
            ThreadPoolExecutor(_LONG_THREADS, "hwledger-rpc-long") as long,
        ):
            executors = {"short": short, "long": long}
            try:
                try:
                    self._receive(service, executors)
                finally:
                    # What hangs from here on would hang for ever, and keep the cache's folder from others.
                    signals.client_gone()
                self._await_calls(service)
            except BrokenPipeError as error:
                raise EngineError(
                    f"the client closed its end ({error}); what still ran for it was cancelled"
                ) from error
            finally:
                service.close()
                # First, for threads of ours may wait for it.
                self.session.close()

    def _receive(self, service: Service, executors: dict[str, ThreadPoolExecutor]) -> None:
        while not self._ending:
            requests = service.connection.receive(_LOOK_S)
            if requests is None:
                return
            for request in requests:
                _begin(service, executors, request)

    def _await_calls(self, service: Service) -> None:
        """Returns when nothing is under way, or the time for it is over."""
        until_s = time.monotonic() + self.settings.shutdown_s
        while time.monotonic() < until_s:
            if service.connection.broken is not None:
                raise BrokenPipeError(service.connection.broken)
            if service.calls.wait_for_none(min(_LOOK_S, until_s - time.monotonic())):
                return
        logger.warning("calls were still under way after %g s and are cancelled", self.settings.shutdown_s)

    def _write_rest(self, connection: RpcConnection) -> None:
        connection.close()
        until_s = time.monotonic() + max(_LEAST_S_TO_WRITE, self.settings.shutdown_s)
        while not connection.flush(_LOOK_S):
            if connection.broken is not None or time.monotonic() >= until_s:
                why = connection.broken or "it does not read"
                raise EngineError(
                    f"the client was not told everything: {why}; {connection.waiting_bytes} bytes are lost"
                )


def _begin(service: Service, executors: dict[str, ThreadPoolExecutor], request: RpcRequest) -> None:
    """Works a call off, or has a thread do so. Whatever happens, it is answered."""
    method = METHODS.get(request.method)
    if method is None:
        refuse_unknown(request, METHODS)
        return
    try:
        if method.work == "now" or method.begin is not None:
            _work(service, method, request)
        else:
            service.calls.begin()
            executors[method.work].submit(_work_and_end, service, method, request)
    except Error as error:
        fail(request, error)


def _work_and_end(service: Service, method: Method, request: RpcRequest) -> None:
    try:
        _work(service, method, request)
    finally:
        service.calls.end()


def _work(service: Service, method: Method, request: RpcRequest) -> None:
    try:
        params = bind(method.params, request.params)
        if method.begin is not None:
            method.begin(service, params, request)
        elif method.run is not None:
            succeed(request, method.run(service, params))
    except Exception as error:  # noqa: BLE001 - whoever asked must not wait for ever; `fail` logs what nobody foresaw
        fail(request, error)
