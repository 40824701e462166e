"""An event loop on a thread of its own, for a session: calls on to it from any thread, and an end that loses none.

Knows nothing of models or requests.
"""

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from hwledger_omlx.errors import EngineClosedError, EngineError, Error

T = TypeVar("T")


class EngineLoop:
    """A loop that is not started yet. What is scheduled while it is open runs before the work of its end."""

    def __init__(self) -> None:
        self._calls: set[concurrent.futures.Future[Any]] = set()
        self._pid = os.getpid()
        self._lifecycle = threading.RLock()
        self._closed = False
        self._end_of_work: concurrent.futures.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        """Whether `start` was called."""
        return self._loop is not None

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def held(self) -> AbstractContextManager[object]:
        """Keeps the loop as it is, open or closed, while entered."""
        return self._lifecycle

    def start(self) -> None:
        """Starts the thread."""
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="hwledger-engine", daemon=True)
        self._thread.start()
        self._loop = loop

    def require_open(self) -> asyncio.AbstractEventLoop:
        """The loop. What is scheduled on it while it is `held` runs before the work of its end.

        Raises:
            EngineError: it was not started, or before the process forked.
            EngineClosedError: it was closed.
        """
        if os.getpid() != self._pid:
            raise EngineError("this engine was opened before the process forked; open one in this process")
        if self._closed:
            raise EngineClosedError("this engine was closed; open a new one")
        if self._loop is None:
            raise EngineError("the engine was not started")
        return self._loop

    def call_soon(self, function: Callable[..., object], *args: object) -> None:
        """Has a function run on the loop. Does not wait.

        Raises:
            EngineError: as `require_open`.
        """
        with self._lifecycle:
            self.require_open().call_soon_threadsafe(function, *args)

    def begin(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Has a coroutine run on the loop. Ends with the loop, at the latest.

        Raises:
            EngineError: as `require_open`.
        """
        try:
            with self._lifecycle:
                call = asyncio.run_coroutine_threadsafe(work, self.require_open())
                self._calls.add(call)
        except Error:
            work.close()
            raise
        call.add_done_callback(self._calls.discard)
        return call

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that runs on the loop; waits, so call it on another thread.

        Raises:
            EngineClosedError: the loop is closed, or was meanwhile.
        """
        try:
            return self.begin(work).result()
        except concurrent.futures.CancelledError as error:
            raise EngineClosedError("the engine was closed meanwhile") from error

    def close(self, last: Callable[[], Coroutine[Any, Any, None]], closed: Callable[[], None]) -> None:
        """Takes no more work, does the last of it, cancels the calls that are left and ends the thread.

        Safe to call twice and from several threads: each call returns when all is done, or raises what `last` raised.

        Args:
            last: what is to be done before the end; awaited on the loop, once.
            closed: called when the thread has ended; may be called again.
        """
        with self._lifecycle:
            self._closed = True
            loop, thread = self._loop, self._thread
            if loop is None or thread is None or os.getpid() != self._pid:
                return
            if self._end_of_work is None:
                self._end_of_work = asyncio.run_coroutine_threadsafe(self._end(last), loop)
                # Not after waiting for it: a wait that Ctrl-C ends must not end the work.
                self._end_of_work.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
        try:
            self._end_of_work.result()
        finally:
            if self._end_of_work.done():
                thread.join()
                with self._lifecycle:
                    if not loop.is_closed():
                        loop.close()
                closed()

    async def _end(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await last()
        for call in list(self._calls):
            call.cancel()
        await asyncio.get_running_loop().shutdown_default_executor()
