"""The process of `bench kv` that prefills and decodes with keys and values held at a format, and looks at the memory.

mlx-lm's model on our layer caches, attending as requests of an engine do; no scheduler, so that speed and memory are
those of the caches. In: `{"k": FORMAT, "v": FORMAT, "prompt_tokens", "new_tokens", "seed"}`. Out: what was measured.
"""

import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np

from hwledger_omlx.hooks.kv_quant import geometry
from hwledger_omlx.hooks.layer_caches import formats
from hwledger_omlx.hooks.layer_caches.arrays import ArraySpec, allocated_nbytes
from hwledger_omlx.hooks.layer_caches.dial import CacheDial, Dial, Side
from hwledger_omlx.kv.prediction import LoadedModel, held_nbytes

_WARM_TOKENS = 4
"""Decoded before the clock starts."""
_FEWEST_ID, _MOST_ID = 32, 200


@contextmanager
def open_model(options: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], dict[str, float]]]:
    """Options: `model` (folder), `chunk_tokens`."""
    loaded = LoadedModel.load(options["model"])
    measured = geometry.measure(loaded.model)
    yield lambda request: _one(loaded, measured, int(options["chunk_tokens"]), request)


def _one(
    loaded: LoadedModel, measured: geometry.Geometry, chunk_tokens: int, request: dict[str, Any]
) -> dict[str, float]:
    tokens, new_tokens = int(request["prompt_tokens"]), int(request["new_tokens"])
    ids = np.random.default_rng(int(request["seed"])).integers(_FEWEST_ID, _MOST_ID, tokens)
    held = tokens + _WARM_TOKENS + new_tokens
    sides = CacheDial(Side(request["k"]), Side(request["v"]))
    dial = Dial(caches={path: sides for layer in measured.paths for path in layer})
    _forget()
    before = mx.get_active_memory()
    caches = loaded.caches(dial, held)
    start_s = time.perf_counter()
    last = _prefill(loaded.model, ids.tolist(), caches, chunk_tokens)
    prefill_s = time.perf_counter() - start_s
    prefill_peak = mx.get_peak_memory() - before
    decode = _decode(loaded.model, last, caches, new_tokens)
    del last
    _forget()
    return {
        "prefill_tokens_per_s": tokens / prefill_s,
        "decode_tokens_per_s": decode,
        "prefill_peak_bytes": float(prefill_peak),
        "kv_bytes": float(mx.get_active_memory() - before),
        "cache_bytes": float(held_nbytes(caches)),
        "predicted_bytes": float(_predicted(measured, dial, held)),
    }


def _forget() -> None:
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()


def _prefill(model: Any, ids: Sequence[int], caches: Sequence[Any], chunk_tokens: int) -> Any:
    last: Any = None
    for start in range(0, len(ids), chunk_tokens):
        last = model(mx.array([ids[start : start + chunk_tokens]]), cache=caches)[:, -1].argmax(-1)
        mx.eval(last, [cache.state for cache in caches])
        mx.clear_cache()
    return last


def _decode(model: Any, last: Any, caches: Sequence[Any], new_tokens: int) -> float:
    """Tokens a second; each step is given to the device before the one before it is read, as mlx-lm does."""
    start_s = time.perf_counter()
    for step in range(_WARM_TOKENS + new_tokens):
        following = model(last[:, None], cache=caches)[:, -1].argmax(-1)
        mx.async_eval(following)  # type: ignore[no-untyped-call]
        last.item()
        last = following
        if step + 1 == _WARM_TOKENS:
            last.item()
            start_s = time.perf_counter()
    last.item()
    mx.eval([cache.state for cache in caches])
    return new_tokens / (time.perf_counter() - start_s)


def _predicted(measured: geometry.Geometry, dial: Dial, tokens: int) -> int:
    """By the formats' sizes alone, and the allocator's pages, before anything is held."""
    nbytes = 0
    for layer, paths in zip(json.loads(measured.text)["layers"], measured.paths, strict=True):
        for cache, path in zip(layer["caches"], paths, strict=True):
            for side, held in (("k", dial.of(path).keys), ("v", dial.of(path).values)):
                like = ArraySpec((1, cache[side]["heads"], 1, cache[side]["width"]), cache["element"])
                nbytes += _held_bytes(formats.parse(held.live), like, tokens)
    return nbytes


def _held_bytes(form: formats.Format, like: ArraySpec, tokens: int) -> int:
    tail_tokens = tokens % form.run_tokens
    arrays = form.specs(like, -(-tokens // form.run_tokens) * form.run_tokens)
    arrays += formats.PLAIN.specs(like, tail_tokens) if tail_tokens else []
    return sum(allocated_nbytes(each.nbytes) for each in arrays)
