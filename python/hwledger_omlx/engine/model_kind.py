"""What a model is for, as the fork's pool finds out from its folder."""

from typing import Any, Literal

from hwledger_omlx.errors import ModelError

ModelKind = Literal["text", "vision", "embedding", "reranker", "transcription", "speech", "sound"]
"""`sound` takes sound and gives sound; the other names say what a model makes, `vision` text out of images and text."""

GENERATING: frozenset[ModelKind] = frozenset({"text", "vision"})
"""Those that work off requests for text, token by token, with a KV cache."""
WITHOUT_TOKENIZER: frozenset[ModelKind] = frozenset({"transcription", "speech", "sound"})
"""Those that may do without a tokenizer's files."""

_OF_THE_FORK: dict[str, ModelKind] = {
    "batched": "text",
    "vlm": "vision",
    "embedding": "embedding",
    "reranker": "reranker",
    "audio_stt": "transcription",
    "audio_tts": "speech",
    "audio_sts": "sound",
}
_CALLED: dict[ModelKind, str] = {
    "text": "a text model",
    "vision": "a vision model",
    "embedding": "an embedding model",
    "reranker": "a reranker",
    "transcription": "a transcription model",
    "speech": "a speech model",
    "sound": "a model from sound to sound",
}


def kind_of(entry: Any) -> ModelKind:
    """The kind of a model in the fork's pool.

    Raises:
        ModelError: it is of a kind that the engine has no use for, such as one that makes images.
    """
    kind = _OF_THE_FORK.get(entry.engine_type)
    if kind is None:
        raise ModelError(
            f"{entry.model_path} holds a model of kind {entry.engine_type!r}, which this engine does not run"
        )
    return kind


def called(kind: ModelKind) -> str:
    """The kind in words, with its article."""
    return _CALLED[kind]
