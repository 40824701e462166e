"""Answers the recall probe's conversations with keys and values held at a dial. Greedy; knows no engine.

The conversations of one context share all but the question, so the context goes through the model once.
"""

import copy
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import mlx.core as mx

from hwledger_omlx.hooks.layer_caches.dial import Dial
from hwledger_omlx.kv.prediction import CHUNK_TOKENS, LoadedModel
from hwledger_omlx.probes import Conversation

_ANSWER_TOKENS = 24


class Answering:
    """What `probes.recall` asks."""

    def __init__(self, loaded: LoadedModel, dial: Dial) -> None:
        self._loaded = loaded
        self._dial = dial

    def count_tokens(self, conversation: Conversation) -> int:
        """Length as the model sees it, generation prompt included."""
        return len(self._ids(conversation))

    def __call__(self, conversations: Sequence[Conversation]) -> list[str]:
        """The greedy answers to conversations of one context."""
        asked = [self._ids(conversation) for conversation in conversations]
        # One token of each is left, whose logits are where the answer begins.
        alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*(ids[:-1] for ids in asked), strict=False))
        shared = sum(1 for _ in alike)
        caches = self._loaded.caches(self._dial, max(len(ids) for ids in asked) + _ANSWER_TOKENS)
        if shared:
            self._prefill(asked[0][:shared], caches)
        return [self._answer(ids[shared:], [_copied(cache) for cache in caches]) for ids in asked]

    def _ids(self, conversation: Conversation) -> list[int]:
        ids = self._loaded.tokenizer.apply_chat_template(conversation, add_generation_prompt=True)
        return [int(token) for token in ids]

    def _prefill(self, ids: Sequence[int], caches: Sequence[Any]) -> None:
        for start in range(0, len(ids), CHUNK_TOKENS):
            self._step(ids[start : start + CHUNK_TOKENS], caches)

    def _step(self, ids: Sequence[int], caches: Sequence[Any]) -> int:
        likeliest = self._loaded.model(mx.array([list(ids)]), cache=caches)[0, -1].argmax()
        mx.eval(likeliest, [cache.state for cache in caches])
        return int(likeliest.item())

    def _answer(self, ids: Sequence[int], caches: Sequence[Any]) -> str:
        said: list[int] = []
        token = self._step(ids, caches)
        while token not in self._loaded.tokenizer.eos_token_ids and len(said) < _ANSWER_TOKENS:
            said.append(token)
            token = self._step([token], caches)
        return str(self._loaded.tokenizer.decode(said))


def _copied(cache: Any) -> Any:
    return cache.copy() if hasattr(cache, "copy") else copy.deepcopy(cache)
