"""The shims of patch 004: around the two places where the fork loads an encoder by itself."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hwledger_omlx.hooks.embeddings import pipeline
from hwledger_omlx.hooks.embeddings.pooling import PooledEncoder
from hwledger_omlx.hooks.embeddings.tokenizer import EncoderTokenizer

_SAME_AS_UPSTREAM = {"hidden_act": "gelu", "position_embedding_type": "absolute"}


def load_native(wrapped: Callable[..., bool], instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Around `omlx.models.embedding:MLXEmbeddingModel._load_native()`, which says whether it has loaded the model.

    Raises:
        ValueError: the folder asks for what the fork's encoder does not do.
    """
    if not wrapped(*args, **kwargs):
        return False
    folder = Path(instance.model_name)
    described = pipeline.read(folder)
    encoder = instance.model
    longest_tokens = _mend(encoder, folder)
    if described.longest_tokens is not None:
        longest_tokens = min(longest_tokens, described.longest_tokens)
    instance.processor = EncoderTokenizer(instance.processor, longest_tokens, lower_case=described.lower_case)
    instance.model = PooledEncoder(encoder, described.pooling)
    return True


def load_reranker(
    wrapped: Callable[..., tuple[Any, Any]], instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Around `omlx.models.reranker:MLXRerankerModel._load_xlm_roberta()`, which returns `(model, tokenizer)`.

    Raises:
        ValueError: the folder asks for what the fork's encoder does not do.
    """
    model, tokenizer = wrapped(*args, **kwargs)
    return model, EncoderTokenizer(tokenizer, _mend(model, Path(instance.model_name)))


def _mend(encoder: Any, folder: Path) -> int:
    """Sets an encoder right and returns how many tokens it has positions for."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name, done in _SAME_AS_UPSTREAM.items():
        if config.get(name, done) != done:
            raise ValueError(f"{folder / 'config.json'} asks for {name} {config[name]!r}; the fork does {done!r} only")
    encoder.eval()  # dropout is on until then
    embeddings = encoder.embeddings
    if config.get("model_type") == "bert":
        # Upstream counts the tokens that are not padding, from one past the padding's id, as RoBERTa does. BERT counts
        # all of them from 0; with an id that no token has, that is what it comes to.
        embeddings.padding_idx = -1
    return int(encoder.config.max_position_embeddings) - (int(embeddings.padding_idx) + 1)
