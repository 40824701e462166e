"""The requests under way, by id: one task each, never more at work than the engine takes. Lives on its loop."""

import asyncio
import logging
import time
from collections.abc import Callable

from hwledger_omlx.engine.events import Event
from hwledger_omlx.engine.generation import LoadedModel, RequestRun
from hwledger_omlx.engine.request import GenerateRequest
from hwledger_omlx.errors import EngineError, Error, RequestError

logger = logging.getLogger(__name__)
Deliver = Callable[[Event | Exception], None]


class RunningRequests:
    """Begins, ends and awaits requests. The fork refuses what exceeds its waiting queue; ours waits here instead."""

    def __init__(self, max_at_work: int) -> None:
        self._slots = asyncio.Semaphore(max_at_work)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._model_ids: dict[asyncio.Task[None], str] = {}

    def begin(self, model: LoadedModel, request: GenerateRequest, deliver: Deliver) -> None:
        """Starts a request; its events and its error go to `deliver`.

        Raises:
            RequestError: a request of that id is running.
        """
        request_id = request.request_id
        if self._runs(request_id):
            raise RequestError(f"a request with id {request_id!r} is running; give another id or none")
        run = RequestRun(model, request, deliver, time.monotonic())
        task = asyncio.create_task(_work(run, request, deliver, self._slots))
        self._tasks[request_id] = task
        self._model_ids[task] = model.folder.model_id
        if request.deadline_s is not None:
            deadline = asyncio.get_running_loop().call_later(request.deadline_s, task.cancel)
            task.add_done_callback(lambda _: deadline.cancel())
        task.add_done_callback(lambda ended: self._forget(request_id, run, ended))

    def end(self, request_id: str) -> bool:
        """Cancels a request. False where none of that id runs."""
        return self._runs(request_id) and self._tasks[request_id].cancel()

    async def end_all(self, model_id: str | None = None) -> None:
        """Cancels the requests of one model, or all, and returns when they have ended."""
        tasks = [task for task, its_model in self._model_ids.items() if model_id in {None, its_model}]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _runs(self, request_id: str) -> bool:
        task = self._tasks.get(request_id)
        return task is not None and not task.done() and not task.cancelling()

    def _forget(self, request_id: str, run: RequestRun, task: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step runs no line of its own, and whoever asked waits all the same.
        if task.cancelled():
            run.give_up()
        del self._model_ids[task]
        if self._tasks.get(request_id) is task:  # a request that is being cancelled yields its id
            del self._tasks[request_id]


async def _work(run: RequestRun, request: GenerateRequest, deliver: Deliver, slots: asyncio.Semaphore) -> None:
    try:
        async with slots:
            await run.run()
    except asyncio.CancelledError:
        run.give_up()
    except Error as error:
        deliver(error)
    except Exception as error:
        logger.debug("request %s failed", request.request_id, exc_info=True)
        failure = EngineError(f"request {request.request_id} failed in the fork: {type(error).__name__}: {error}")
        failure.__cause__ = error
        deliver(failure)
