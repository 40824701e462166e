"""What models do that answer a request in one piece: embed, rerank, transcribe, speak. Runs on the engine's loop.

Each is a call of the fork's engine of that kind, which has one thread for all of them: what is here checks what is
given, keeps one request from holding that thread for long where it can, and names what went wrong.
"""

import contextlib
import io
import tempfile
import wave
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

from hwledger_omlx.engine.answers import Embeddings, RankedDocument, Ranking, Speech, Transcription
from hwledger_omlx.engine.generation import LoadedModel
from hwledger_omlx.engine.model_kind import ModelKind, called
from hwledger_omlx.errors import EngineError, Error, ModelTaskError, RequestError

T = TypeVar("T")
_TEXTS_AT_ONCE = 16


class OneShot:
    """The loaded models, asked in one piece. Where a method is given no model, it takes the first of the right kind."""

    def __init__(self, models: Mapping[str, LoadedModel]) -> None:
        self._models = models

    async def embed(self, texts: str | Sequence[str], model: str | None = None) -> Embeddings:
        """Texts as vectors of length 1. A text that is too long for the model is cut off.

        Raises:
            RequestError: there is no text, or no such model is loaded.
            ModelTaskError: the model does not embed.
            EngineError: the fork failed.
        """
        import numpy as np

        wanted = _texts(texts, "texts")
        chosen = self._of_kind("embedding", model, "embed")
        # By length, so that little is padded; in parts, so that other requests have their turns between them. Of bytes:
        # a letter that is rare in English is more tokens.
        order = sorted(range(len(wanted)), key=lambda index: len(wanted[index].encode(errors="replace")))
        vectors: list[Any] = [None] * len(wanted)
        tokens = 0
        for start in range(0, len(order), _TEXTS_AT_ONCE):
            part = order[start : start + _TEXTS_AT_ONCE]
            output = await _answered(chosen, chosen.engine.embed([wanted[index] for index in part]))
            tokens += int(output.total_tokens)
            for index, vector in zip(part, output.embeddings, strict=True):
                vectors[index] = vector
        return Embeddings(chosen.folder.model_id, np.asarray(vectors, np.float32), tokens)

    async def rerank(
        self, query: str, documents: Sequence[str], model: str | None = None, top_n: int | None = None
    ) -> Ranking:
        """Documents by how well they answer a query.

        Args:
            query: what is asked.
            documents: what may answer it; a pair that is too long for the model is cut off.
            model: id of a loaded reranker.
            top_n: how many of the best to return; None for all.

        Raises:
            RequestError: there is no query or no document, `top_n` is below 1, or no such model is loaded.
            ModelTaskError: the model does not rerank.
            EngineError: the fork failed.
        """
        if not isinstance(query, str) or not query:
            raise RequestError("the query is empty; give some text to compare the documents with")
        if isinstance(documents, str):
            raise RequestError("documents must be a list of texts, not a text")
        wanted = _texts(documents, "documents")
        best = _count(top_n, "top_n")
        chosen = self._of_kind("reranker", model, "rerank")
        # In one part: some models judge the documents beside each other.
        output = await _answered(chosen, chosen.engine.rerank(query, wanted, top_n=best))
        ranked = tuple(RankedDocument(index, float(output.scores[index])) for index in output.indices)
        return Ranking(chosen.folder.model_id, ranked, int(output.total_tokens))

    async def transcribe(
        self,
        audio: str | Path | bytes,
        model: str | None = None,
        language: str | None = None,
        prompt: str | None = None,
        temperature: float | None = None,
    ) -> Transcription:
        """Speech as text.

        Args:
            audio: a file, or what is in one; WAV, FLAC and MP3 in any case.
            model: id of a loaded transcription model.
            language: what is spoken, such as `en`; None leaves it to the model.
            prompt: text that comes before, for models that take it.
            temperature: of sampling; None for the model's own.

        Raises:
            RequestError: there is no such file, or no such model is loaded.
            ModelTaskError: the model does not transcribe.
            EngineError: the fork failed, as it does with what is no sound.
        """
        chosen = self._of_kind("transcription", model, "transcribe")
        given = {"prompt": prompt, "temperature": temperature}
        more = {name: value for name, value in given.items() if value is not None}
        with _file_of(audio) as file:
            said = await _answered(chosen, chosen.engine.transcribe(file, language=language, **more))
        segments = tuple(said.get("segments") or ())
        return Transcription(chosen.folder.model_id, str(said.get("text", "")), said.get("language"), segments)

    async def speak(
        self,
        text: str,
        model: str | None = None,
        voice: str | None = None,
        speed: float = 1.0,
        instructions: str | None = None,
        max_tokens: int | None = None,
    ) -> Speech:
        """Text as speech.

        Args:
            text: what is to be said.
            model: id of a loaded speech model.
            voice: one of the model's; None for its own choice.
            speed: 1.0 as the model speaks.
            instructions: how to say it, for models that take that.
            max_tokens: most tokens of sound; None for the model's own limit.

        Raises:
            RequestError: there is no text, or no such model is loaded.
            ModelTaskError: the model does not speak.
            EngineError: the fork failed.
        """
        if not isinstance(text, str) or not text.strip():
            raise RequestError("there is nothing to say; give some text")
        if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0 < speed < 100:
            raise RequestError(f"speed must be a number above 0, 1.0 as the model speaks, not {speed!r}")
        most = _count(max_tokens, "max_tokens")
        chosen = self._of_kind("speech", model, "speak")
        work = chosen.engine.synthesize(
            text, voice=voice, speed=float(speed), instructions=instructions, max_tokens=most
        )
        wav = await _answered(chosen, work)
        with wave.open(io.BytesIO(wav)) as read:
            rate = read.getframerate()
            return Speech(chosen.folder.model_id, wav, rate, read.getnframes() / rate)

    def _of_kind(self, kind: ModelKind, model: str | None, does: str) -> LoadedModel:
        able = [each for each in self._models.values() if each.placed.kind == kind]
        if model is None:
            if not able:
                raise RequestError(f"no model is loaded that can {does}; load {called(kind)} first")
            return able[0]
        found = self._models.get(model)
        if found is None:
            loaded = ", ".join(self._models) or "none"
            raise RequestError(
                f"no model {model!r} is loaded (loaded: {loaded}); load it first with engine.load(folder)"
            )
        if found.placed.kind != kind:
            can = ", ".join(each.folder.model_id for each in able) or "none of those loaded"
            raise ModelTaskError(f"{model} is {called(found.placed.kind)} and cannot {does} (can: {can})")
        return found


async def _answered(model: LoadedModel, answer: Awaitable[T]) -> T:
    try:
        return await answer
    except Error:
        raise
    except Exception as error:
        # Tokenizers, decoders of sound and the models themselves each raise what they raise.
        raise EngineError(f"{model.folder.model_id} failed: {type(error).__name__}: {error}") from error


def _count(given: object, name: str) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, Integral) or given < 1:
        raise RequestError(f"{name} must be a whole number of at least 1, not {given!r}")
    return int(given)


def _texts(given: object, name: str) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or isinstance(texts, bytes) or any(not isinstance(each, str) for each in texts):
        raise RequestError(f"{name} must be a list of texts, not {given!r:.80}")
    if not texts:
        raise RequestError(f"{name} is empty; give at least one text")
    return list(texts)


@contextlib.contextmanager
def _file_of(audio: str | Path | bytes) -> Iterator[str]:
    """The fork reads files."""
    if isinstance(audio, bytes):
        with tempfile.NamedTemporaryFile(suffix=_suffix(audio)) as file:
            file.write(audio)
            file.flush()
            yield file.name
    elif not isinstance(audio, str | Path):
        raise RequestError(f"audio is a file or the bytes of one, not {type(audio).__name__}")
    elif not Path(audio).expanduser().is_file():
        raise RequestError(f"there is no sound file {audio}")
    else:
        yield str(Path(audio).expanduser())


def _suffix(audio: bytes) -> str:
    """The fork goes by the name of a file; these are the signatures at the beginning of each format."""
    if audio[:4] == b"fLaC":
        return ".flac"
    if audio[:3] == b"ID3" or (len(audio) > 1 and audio[0] == 0xFF and audio[1] & 0xE0 == 0xE0):
        return ".mp3"
    if audio[:4] == b"OggS":
        return ".ogg"
    return ".m4a" if audio[4:8] == b"ftyp" else ".wav"
