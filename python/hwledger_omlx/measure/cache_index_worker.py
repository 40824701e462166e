"""The contestant of `bench cache` that has a store of very many small blocks: how fast it opens and finds.

Its KV is one byte a token: what is measured does not depend on how much of it there is.

In: `{"fill": true}` once, then `{}`. Out: what was measured.
"""

import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy

from hwledger_omlx._native import Layout, Store
from hwledger_omlx.cache.settings import PagedCache
from hwledger_omlx.cache.stats import CacheStats

_NAMESPACE = bytes(range(32))
_VOCABULARY = 150_000
_LOOKUPS = 20
"""Of which the median counts: one is over in less time than the system takes to look elsewhere."""


@contextmanager
def open_index(options: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], dict[str, float]]]:
    """Options: `folder`; `prompts`, so many of `prompt_tokens` tokens each that share nothing."""
    folder, prompts, prompt_tokens = Path(options["folder"]), int(options["prompts"]), int(options["prompt_tokens"])
    settings = PagedCache(hot_bytes=0, min_free_bytes=0, quota_bytes=64 << 30)

    def prompt(number: int) -> "array[int]":
        drawn = numpy.random.default_rng(number).integers(_VOCABULARY, size=prompt_tokens, dtype=numpy.uint32)
        return array("I", drawn.tobytes())

    def fill() -> dict[str, float]:
        layout = Layout([(1, 1)])
        kv: Any = numpy.zeros((1, 1, prompt_tokens, 1), numpy.uint8)
        with settings.open(folder) as store:
            for number in range(prompts):
                saved = store.save(_NAMESPACE, layout, prompt(number), [kv])
                if saved.new_tokens != prompt_tokens:
                    raise RuntimeError(f"the store took {saved.new_tokens} of {prompt_tokens} tokens: {saved.refused}")
                store.flush()
        return {}

    def measure() -> dict[str, float]:
        start_s = time.perf_counter()
        store = settings.open(folder)
        open_s = time.perf_counter() - start_s
        with store:
            stats = CacheStats.parse(store.stats())
            wanted = prompt(prompts // 2)
            return {
                "open_s": open_s,
                "blocks": float(stats.disk.blocks),
                "index_bytes_per_block": stats.memory.index_bytes / stats.disk.blocks,
                "u32_s": _seconds_of_lookup(store, wanted, prompt_tokens),
                "list_s": _seconds_of_lookup(store, wanted.tolist(), prompt_tokens),
                "half_list_s": _seconds_of_lookup(store, wanted[: prompt_tokens // 2].tolist(), prompt_tokens // 2),
            }

    yield lambda request: fill() if request.get("fill") else measure()


def _seconds_of_lookup(store: Store, tokens: "array[int] | list[int]", expected: int) -> float:
    taken = []
    for _ in range(_LOOKUPS):
        start_s = time.perf_counter()
        match = store.lookup(_NAMESPACE, tokens)
        taken.append(time.perf_counter() - start_s)
        if match.tokens != expected:
            raise RuntimeError(f"{match.tokens} of {expected} stored tokens were found")
        match.release()
    return sorted(taken)[len(taken) // 2]
