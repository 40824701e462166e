"""`Engine`: the blocking face of a session, for scripts, notebooks and threads."""

import queue
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Unpack

from hwledger_omlx.engine import progress
from hwledger_omlx.engine.answers import Embeddings, Ranking, Speech, Transcription
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

    def embed(self, texts: str | Sequence[str], *, model: str | None = None) -> Embeddings:
        """Texts as vectors of length 1. A text that is too long for the model is cut off.

        Args:
            texts: one or more.
            model: id of a loaded embedding model; None for the first one.

        Raises:
            RequestError: there is no text, or no such model is loaded.
            ModelTaskError: the model does not embed.
            EngineError: the fork failed, or the engine was closed.
        """
        return self._session.run(self._session.one_shot.embed(texts, model))

    def rerank(
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
        return self._session.run(self._session.one_shot.rerank(query, documents, model, top_n))

    def transcribe(
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
        return self._session.run(work)

    def speak(
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
        return self._session.run(work)

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
