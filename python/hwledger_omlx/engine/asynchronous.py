"""`AsyncEngine`: the asyncio face of a session. The engine has its own loop, so the caller's is never held up."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Unpack

from hwledger_omlx.engine import progress
from hwledger_omlx.engine.answers import Embeddings, Ranking, Speech, Transcription
from hwledger_omlx.engine.events import DoneEvent, Event, Generation, Message
from hwledger_omlx.engine.face import Face
from hwledger_omlx.engine.kv_policy import KvSetting
from hwledger_omlx.engine.request import GenerateRequest, RequestFields
from hwledger_omlx.errors import EngineError
from hwledger_omlx.memory.events import AsyncMemoryEvents, MemoryEvents
from hwledger_omlx.memory.report import MemoryReport


class AsyncEngine(Face):
    """As `Engine`, with coroutines. Requests under way at the same time are batched.

    The model is loaded by `start`, or on entering an `async with` statement. Arguments are those of `Engine`.
    """

    async def start(self) -> None:
        """Loads the fork and the model.

        Raises:
            ForkError: no usable oMLX fork.
            ModelError: no such model, or one that cannot be loaded.
        """
        await asyncio.to_thread(self._session.start)

    async def generate(self, prompt: str | Sequence[Message], **fields: Unpack[RequestFields]) -> Generation:
        """The whole answer to `prompt`. Cancelling the task cancels the request.

        Raises:
            RequestError: a field or the prompt cannot be; the engine goes on.
            EngineError: the engine was closed or failed meanwhile.
        """
        stream = self.stream(prompt, **fields)
        try:
            async for event in stream:
                if isinstance(event, DoneEvent):
                    return event.result
        finally:
            await stream.aclose()
        raise EngineError("the stream ended without a result")

    def stream(self, prompt: str | Sequence[Message], **fields: Unpack[RequestFields]) -> AsyncGenerator[Event]:
        """The answer as it comes, a `DoneEvent` last. Leaving the iteration cancels the request."""
        return self._events(GenerateRequest.parse(prompt, **fields))

    async def _events(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | Exception] = asyncio.Queue()

        def deliver(event: Event | Exception) -> None:
            # The caller's loop may be gone, with nobody left to tell.
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        bar = progress.PrefillBar(show=progress.wanted(self._session.config.progress))
        self._session.submit(request, deliver)
        ended = False
        try:
            while not ended:
                try:
                    event = await asyncio.wait_for(events.get(), bar.wait_s)
                except TimeoutError:
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

    async def cancel(self, request_id: str) -> bool:
        """Ends a running request; its stream closes with finish reason `cancelled`. False where none has that id."""
        return await asyncio.to_thread(self._session.cancel, request_id)

    async def load(self, model: str | Path) -> str:
        """Loads a further model and returns the id that requests name it by.

        Raises:
            ModelError: no such model, or one that cannot be loaded.
        """
        return await asyncio.to_thread(self._session.load, model)

    async def unload(self, model_id: str) -> None:
        """Cancels a model's requests and releases its memory.

        Raises:
            ModelError: no model of that id is loaded.
        """
        await asyncio.to_thread(self._session.unload, model_id)

    async def set_kv_policy(self, policy: KvSetting, *, model: str | None = None) -> None:
        """Has requests that begin from now on run at a KV policy; those that run go on as they are.

        Args:
            policy: as `EngineConfig.kv`.
            model: id of a loaded model; None for all, and those loaded later.

        Raises:
            KvPolicyError: it is no policy, or a model cannot take it; the message names the layer. Nothing has changed.
            ModelError: no model of that id is loaded.
        """
        await asyncio.to_thread(self._session.set_kv_policy, policy, model)

    async def embed(self, texts: str | Sequence[str], *, model: str | None = None) -> Embeddings:
        """Texts as vectors of length 1. A text that is too long for the model is cut off.

        Args:
            texts: one or more.
            model: id of a loaded embedding model; None for the first one.

        Raises:
            RequestError: there is no text, or no such model is loaded.
            ModelTaskError: the model does not embed.
            EngineError: the fork failed, or the engine was closed.
        """
        return await asyncio.wrap_future(self._session.begin(self._session.one_shot.embed(texts, model)))

    async def rerank(
        self, query: str, documents: Sequence[str], *, model: str | None = None, top_n: int | None = None
    ) -> Ranking:
        """Documents by how well they answer a query, the best first.

        Args:
            query: what is asked.
            documents: what may answer it; a pair that is too long for the model is cut off.
            model: id of a loaded reranker; None for the first one.
            top_n: how many of the best to return; None for all.

        Raises:
            RequestError: there is no query or no document, `top_n` is below 1, or no such model is loaded.
            ModelTaskError: the model does not rerank.
            EngineError: the fork failed, or the engine was closed.
        """
        return await asyncio.wrap_future(
            self._session.begin(self._session.one_shot.rerank(query, documents, model, top_n))
        )

    async def transcribe(
        self,
        audio: str | Path | bytes,
        *,
        model: str | None = None,
        language: str | None = None,
        prompt: str | None = None,
        temperature: float | None = None,
    ) -> Transcription:
        """Speech as text.

        Args:
            audio: a file, or what is in one; WAV, FLAC and MP3 in any case.
            model: id of a loaded transcription model; None for the first one.
            language: what is spoken, such as `en`; None leaves it to the model.
            prompt: text that comes before, for models that take it.
            temperature: of sampling; None for the model's own.

        Raises:
            RequestError: there is no such file, or no such model is loaded.
            ModelTaskError: the model does not transcribe.
            EngineError: the fork failed, as it does with what is no sound, or the engine was closed.
        """
        work = self._session.one_shot.transcribe(audio, model, language, prompt, temperature)
        return await asyncio.wrap_future(self._session.begin(work))

    async def speak(
        self,
        text: str,
        *,
        model: str | None = None,
        voice: str | None = None,
        speed: float = 1.0,
        instructions: str | None = None,
        max_tokens: int | None = None,
    ) -> Speech:
        """Text as speech, in a WAV file.

        Args:
            text: what is to be said.
            model: id of a loaded speech model; None for the first one.
            voice: one of the model's; None for its own choice.
            speed: 1.0 as the model speaks.
            instructions: how to say it, for models that take that.
            max_tokens: most tokens of sound; None for the model's own limit.

        Raises:
            RequestError: there is no text, or no such model is loaded.
            ModelTaskError: the model does not speak.
            EngineError: the fork failed, or the engine was closed.
        """
        work = self._session.one_shot.speak(text, model, voice, speed, instructions, max_tokens)
        return await asyncio.wrap_future(self._session.begin(work))

    async def memory(self) -> MemoryReport:
        """Where the engine's memory goes now, layer by layer, and the highest it went.

        Raises:
            EngineClosedError: the engine was closed.
        """
        return await asyncio.to_thread(self._session.memory)

    def memory_events(self, *, buffered: int = 256) -> AsyncMemoryEvents:
        """The samples as they are taken, of all models, until the engine is closed. Leave the loop to stop listening.

        Args:
            buffered: samples of a model that wait for a slow reader, at most; the older ones are dropped and counted.
        """
        events = MemoryEvents(self._session.memory_ledgers, lambda: self._session.closed, buffered=buffered)
        return AsyncMemoryEvents(events)

    async def close(self) -> None:
        """Cancels what runs, flushes the cache and releases everything. Safe to call twice."""
        await asyncio.to_thread(self._session.close)

    async def __aenter__(self) -> "AsyncEngine":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
