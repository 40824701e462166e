"""`Engine`: the blocking face of a session, for scripts, notebooks and threads."""

import queue
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Unpack

from hwledger_omlx.engine import progress
from hwledger_omlx.engine.events import DoneEvent, Event, Generation, Message
from hwledger_omlx.engine.face import EngineSettings, Face
from hwledger_omlx.engine.kv_policy import KvSetting
from hwledger_omlx.engine.request import GenerateRequest, RequestFields
from hwledger_omlx.errors import EngineError
from hwledger_omlx.memory.events import MemoryEvents
from hwledger_omlx.memory.report import MemoryReport


class Engine(Face):
    """A model in this process, ready when the constructor returns.

    Usable from any thread; requests of several threads are batched. Close it, or use it in a `with` statement.

    Args:
        model: a local folder, or a Hugging Face id where online.
        settings: see `EngineConfig`.

    Raises:
        ForkError: no usable oMLX fork.
        ModelError: no such model, or one that cannot be loaded.
    """

    def __init__(self, model: str | Path, **settings: Unpack[EngineSettings]) -> None:
        super().__init__(model, **settings)
        self._session.start()

    def generate(self, prompt: str | Sequence[Message], **fields: Unpack[RequestFields]) -> Generation:
        """The whole answer to `prompt`: text to continue, or chat messages.

        Raises:
            RequestError: a field or the prompt cannot be; the engine goes on.
            EngineError: the engine was closed or failed meanwhile.
        """
        for event in self.stream(prompt, **fields):
            if isinstance(event, DoneEvent):
                return event.result
        raise EngineError("the stream ended without a result")

    def stream(self, prompt: str | Sequence[Message], **fields: Unpack[RequestFields]) -> Iterator[Event]:
        """The answer as it comes, a `DoneEvent` last. Leaving the iteration cancels the request."""
        request = GenerateRequest.parse(prompt, **fields)
        return self._events(request)

    def _events(self, request: GenerateRequest) -> Iterator[Event]:
        events: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()
        bar = progress.PrefillBar(show=progress.wanted(self._session.config.progress))
        self._session.submit(request, events.put)
        ended = False
        try:
            while not ended:
                try:
                    event = events.get(timeout=bar.wait_s)
                except queue.Empty:
                    bar.tick()
                    continue
                bar.take(event)
                if isinstance(event, Exception):
                    ended = True
                    raise event
                ended = isinstance(event, DoneEvent)
                yield event
        finally:
            bar.close()
            if not ended:
                self._session.give_up(request.request_id)

    def cancel(self, request_id: str) -> bool:
        """Ends a running request; its stream closes with finish reason `cancelled`. False where none has that id."""
        return self._session.cancel(request_id)

    def load(self, model: str | Path) -> str:
        """Loads a further model and returns the id that requests name it by.

        Raises:
            ModelError: no such model, or one that cannot be loaded.
        """
        return self._session.load(model)

    def unload(self, model_id: str) -> None:
        """Cancels a model's requests and releases its memory.

        Raises:
            ModelError: no model of that id is loaded.
        """
        self._session.unload(model_id)

    def set_kv_policy(self, policy: KvSetting, *, model: str | None = None) -> None:
        """Has requests that begin from now on run at a KV policy; those that run go on as they are.

        Args:
            policy: as `EngineConfig.kv`.
            model: id of a loaded model; None for all, and those loaded later.

        Raises:
            KvPolicyError: it is no policy, or a model cannot take it; the message names the layer. Nothing has changed.
            ModelError: no model of that id is loaded.
        """
        self._session.set_kv_policy(policy, model)

    def memory(self) -> MemoryReport:
        """Where the engine's memory goes now, layer by layer, and the highest it went.

        Raises:
            EngineClosedError: the engine was closed.
        """
        return self._session.memory()

    def memory_events(self, *, buffered: int = 256) -> MemoryEvents:
        """The samples as they are taken, of all models, until the engine is closed. Leave the loop to stop listening.

        Args:
            buffered: samples of a model that wait for a slow reader, at most; the older ones are dropped and counted.
        """
        return MemoryEvents(self._session.memory_ledgers, lambda: self._session.closed, buffered=buffered)

    def close(self) -> None:
        """Cancels what runs, flushes the cache and releases everything. Safe to call twice."""
        self._session.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
