"""Greedy answering for the probes, once with the PyTorch model on a GPU and once with mlx-lm on whatever MLX runs on.

Both give `answer` (conversations to replies), `count` (tokens of a conversation), `encode` and `log_probs`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Conversation = list[dict[str, str]]
NEW_TOKENS = 32


class Answerer(Protocol):
    """What the probes need of a model."""

    def answer(self, conversations: list[Conversation]) -> list[str]:
        """Greedy replies."""

    def count(self, conversation: Conversation) -> int:
        """Tokens of the conversation with the generation prompt."""

    def encode(self, text: str) -> list[int]:
        """Token ids of raw text."""

    def log_probs(self, ids: list[int]) -> NDArray[np.float32]:
        """Log-probability of every id but the first."""


class _Tokenized:
    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
        self.stop = self.tokenizer.eos_token_id

    def prompt(self, conversation: Conversation) -> list[int]:
        text = self.tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        return self.encode(text)

    def count(self, conversation: Conversation) -> int:
        return len(self.prompt(conversation))

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def text(self, ids: list[int]) -> str:
        if self.stop not in ids:
            return str(self.tokenizer.decode(ids)) + " [did not end]"
        return str(self.tokenizer.decode(ids[: ids.index(self.stop)]))


class TorchAnswerer(_Tokenized):
    """The PyTorch model with bf16 weights and bf16 arithmetic; recomputes the whole context for every token."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import torch

        from training.export import read_model

        self.torch = torch
        self.model = read_model(folder).cuda()

    def answer(self, conversations: list[Conversation]) -> list[str]:
        """Greedy replies, all conversations in one batch padded on the right."""
        torch = self.torch
        prompts = [self.prompt(conversation) for conversation in conversations]
        room = max(map(len, prompts)) + NEW_TOKENS
        ids = torch.full((len(prompts), room), self.stop, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        ids = ids.cuda()
        ends = torch.tensor([len(prompt) for prompt in prompts]).cuda()
        rows = torch.arange(len(prompts)).cuda()
        done = torch.zeros(len(prompts), dtype=torch.bool).cuda()
        for _ in range(NEW_TOKENS):
            with torch.no_grad():
                hidden = self.model(ids[:, : int(ends.max())]).view(len(prompts), -1, self.model.shape.hidden_size)
                best = self.model.logits(hidden[rows, ends - 1]).argmax(-1)
            ids[rows, ends] = best
            ends = ends + 1
            done |= best == self.stop
            if bool(done.all()):
                break
        made = [ids[row, len(prompt) : int(ends[row])].tolist() for row, prompt in enumerate(prompts)]
        return [self.text(new) for new in made]

    def log_probs(self, ids: list[int]) -> NDArray[np.float32]:
        """Log-probability of every id but the first."""
        torch = self.torch
        batch = torch.tensor([ids]).cuda()
        with torch.no_grad():
            values = self.model.logits(self.model(batch[:, :-1])).log_softmax(-1)
        picked: NDArray[np.float32] = values.gather(-1, batch[0, 1:, None])[:, 0].cpu().numpy()
        return picked


class MlxAnswerer(_Tokenized):
    """mlx-lm with a KV cache; the part that a batch of conversations has in common is computed once."""

    def __init__(self, folder: Path, chunk: int = 512) -> None:
        super().__init__(folder)
        import mlx.core as mx
        from mlx_lm import load
        from mlx_lm.models.cache import make_prompt_cache

        self.mx, self.chunk, self.make_cache = mx, chunk, make_prompt_cache
        self.model: Any = load(str(folder))[0]

    def _feed(self, ids: list[int], cache: Any) -> Any:
        logits = None
        for start in range(0, len(ids), self.chunk):
            logits = self.model(self.mx.array([ids[start : start + self.chunk]]), cache=cache)
            self.mx.eval(logits)
        return logits

    def answer(self, conversations: list[Conversation]) -> list[str]:
        """Greedy replies, one conversation after the other."""
        prompts = [self.prompt(conversation) for conversation in conversations]
        shared = 0
        while shared < min(map(len, prompts)) - 1 and len({prompt[shared] for prompt in prompts}) == 1:
            shared += 1
        base = self.make_cache(self.model)
        self._feed(prompts[0][:shared], base)
        replies = []
        for prompt in prompts:
            cache = copy.deepcopy(base)
            logits = self._feed(prompt[shared:], cache)
            made: list[int] = []
            while len(made) < NEW_TOKENS:
                made.append(int(self.mx.argmax(logits[0, -1]).item()))
                if made[-1] == self.stop:
                    break
                logits = self._feed(made[-1:], cache)
            replies.append(self.text(made))
        return replies

    def log_probs(self, ids: list[int]) -> NDArray[np.float32]:
        """Log-probability of every id but the first."""
        cache = self.make_cache(self.model)
        out = []
        for start in range(0, len(ids) - 1, self.chunk):
            logits = self.model(self.mx.array([ids[start : min(start + self.chunk, len(ids) - 1)]]), cache=cache)
            values = logits[0].astype(self.mx.float32)
            values = values - self.mx.logsumexp(values, -1, keepdims=True)
            targets = self.mx.array(ids[start + 1 : start + 1 + values.shape[0]])
            out.append(np.array(self.mx.take_along_axis(values, targets[:, None], -1)[:, 0]))
        return np.concatenate(out)
