"""The vectors of a text's tokens made one, in MLX.

Formulas are those of sentence-transformers' `Pooling` module:
https://sbert.net/docs/package_reference/sentence_transformer/models.html#sentence_transformers.models.Pooling
"""

import dataclasses
from typing import Any

from hwledger_omlx.hooks.embeddings.pipeline import Pooling


class PooledEncoder:
    """The fork's encoder with another way to pool; called as the encoder is.

    Args:
        encoder: the fork's model; its output has `last_hidden_state` of `[texts, tokens, hidden]` and `text_embeds`.
        mode: how to pool.
    """

    def __init__(self, encoder: Any, mode: Pooling) -> None:
        self.encoder = encoder
        self.mode: Pooling = mode
        self.config = encoder.config

    def __call__(self, *, input_ids: Any, attention_mask: Any) -> Any:
        """The encoder's output with `text_embeds` of `[texts, hidden]`, float32, each of length 1."""
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return dataclasses.replace(output, text_embeds=pooled(output.last_hidden_state, attention_mask, self.mode))


def pooled(states: Any, attention_mask: Any, mode: Pooling) -> Any:
    """One vector a text, of length 1.

    Args:
        states: `[texts, tokens, hidden]`.
        attention_mask: `[texts, tokens]`, 1 for a token of the text and 0 for padding.
        mode: how to pool.
    """
    import mlx.core as mx

    # A sum of a long text's tokens has no place in 16 bits.
    states = states.astype(mx.float32)
    mask = attention_mask.astype(mx.float32)[:, :, None]
    match mode:
        case "cls":
            vectors = states[:, 0]
        case "mean":
            vectors = (states * mask).sum(axis=1) / mask.sum(axis=1)
        case "max":
            vectors = mx.where(mask > 0, states, -mx.inf).max(axis=1)
        case "mean_sqrt_len_tokens":
            vectors = (states * mask).sum(axis=1) / mx.sqrt(mask.sum(axis=1))
        case "weightedmean":
            weights = mask * mx.arange(1, states.shape[1] + 1)[None, :, None]
            vectors = (states * weights).sum(axis=1) / weights.sum(axis=1)
        case "lasttoken":
            last = states.shape[1] - 1 - mx.argmax(attention_mask[:, ::-1], axis=1)
            vectors = mx.take_along_axis(states, last[:, None, None], axis=1)[:, 0]
    return vectors / mx.maximum(mx.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
