"""Streams of training sequences: worker processes make them, the trainer draws batches.

Knows nothing of the model. A worker's text depends on (seed, worker, length, counter) alone.
"""

from __future__ import annotations

import multiprocessing
import queue
import random
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training import chats
from training.tokenizer import Encoder
from training.words import Sampler, Split

BUNDLE = 16
"""Sequences a worker hands over at a time."""


def make(encoder: Encoder, seed: str, split: Split, length: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Ids and roles, each [length + 1] (rarely fewer), of one sequence."""
    document = chats.sequence(Sampler(seed, split), length + 1, encoder, encoder.special)
    ids = np.array(document.ids[: length + 1], np.uint16)
    roles = np.array(document.roles[: length + 1], np.uint8)
    return ids, roles


def _work(folder: str, seed: int, worker: int, length: Synchronized[int], out: Any) -> None:
    encoder = Encoder(Tokenizer.from_file(str(Path(folder) / "tokenizer.json")))
    counter = 0
    while True:
        now = length.value
        pairs = []
        while len(pairs) < BUNDLE:
            counter += 1
            pair = make(encoder, f"{seed}/{worker}/{now}/{counter}", "train", now)
            if len(pair[0]) == now + 1:
                pairs.append(pair)
        out.put((now, np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])))


class Stream:
    """Batches of fresh sequences; repeats recent ones only if the workers cannot keep up."""

    def __init__(self, folder: Path, *, seed: int, length: int, workers: int, keep: int = 96_000_000) -> None:
        context = multiprocessing.get_context("spawn")
        self.out: Any = context.Queue(maxsize=256)
        self.length = context.Value("i", length)
        self.keep = keep
        self.fresh: dict[int, list[tuple[NDArray[np.uint16], NDArray[np.uint8]]]] = {}
        self.old: dict[int, list[tuple[NDArray[np.uint16], NDArray[np.uint8]]]] = {}
        self.rng = random.Random(seed)
        self.made = self.repeated = 0
        self.workers = [
            context.Process(target=_work, args=(str(folder), seed, i, self.length, self.out), daemon=True)
            for i in range(workers)
        ]
        for worker in self.workers:
            worker.start()

    def prepare(self, length: int) -> None:
        """Let the workers make sequences of this length from now on."""
        self.length.value = length

    def _drain(self, length_now: int, block: bool) -> None:
        try:
            while len(self.fresh[length_now]) * length_now < self.keep // 4:
                length, ids, roles = self.out.get(block, 30)
                block = False
                self.fresh.setdefault(length, []).extend(zip(ids, roles, strict=True))
        except queue.Empty:
            if block:
                raise RuntimeError("the workers deliver nothing") from None

    def batch(self, length: int, count: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
        """Ids and roles [count, length + 1]."""
        fresh, old = self.fresh.setdefault(length, []), self.old.setdefault(length, [])
        self._drain(length, False)
        while len(fresh) + len(old) < count:
            self._drain(length, True)
        taken = [fresh.pop() for _ in range(min(count, len(fresh)))]
        self.made += len(taken)
        self.repeated += count - len(taken)
        taken_again = [old[self.rng.randrange(len(old))] for _ in range(count - len(taken))]
        old += taken
        if len(old) * length > self.keep:
            del old[: len(old) // 4]
        both = taken + taken_again
        return np.stack([pair[0] for pair in both]), np.stack([pair[1] for pair in both])

    def close(self) -> None:
        """Stop the workers."""
        for worker in self.workers:
            worker.terminate()
