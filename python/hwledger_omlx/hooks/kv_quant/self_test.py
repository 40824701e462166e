"""Proves patch 001 on a fork whose scheduler has changed: the same greedy text in 16 bit, fewer bytes at 8 and 4."""

import asyncio
import importlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwledger_omlx.hooks.layer_caches.dial import CacheDial, Dial, Side, set_dial

if TYPE_CHECKING:
    from hwledger_omlx.fork.load import LoadedFork

_PROMPT = "the quick brown fox jumps over the lazy dog, and then it does so again, and again. " * 4
_LAYERS = 2
_ANSWER_TOKENS = 12


def self_test(loaded: "LoadedFork") -> str | None:
    """Greedy text in 16 bit is that without the hook, in both ways to prefill; 8 and 4 bits take fewer bytes."""
    from hwledger_omlx.fork import probe_model

    with tempfile.TemporaryDirectory(prefix="hwledger-omlx-self-test-") as folder:
        model = probe_model.write(Path(folder) / "model")
        return asyncio.run(_compare(loaded, model))


async def _compare(loaded: "LoadedFork", model: Path) -> str | None:
    importlib.import_module("omlx.scheduler")
    with loaded.lifted("kv-quant.prefill"):
        plain, _ = await _answer(model, None, chunked=False)
    for chunked in (False, True):
        text, full_nbytes = await _answer(model, Dial(), chunked=chunked)
        if text != plain:
            return f"greedy text in 16 bit differs with the hook: {plain!r}, then {text!r}"
        side = Side("affine:8:32", "affine:8:32"), Side("affine:4:32", "affine:4:32")
        dial = Dial("8", caches={(layer,): CacheDial(*side) for layer in range(_LAYERS)})
        _, nbytes = await _answer(model, dial, chunked=chunked)
        if not nbytes < full_nbytes:
            return f"the layers hold {nbytes} bytes at 8 and 4 bits, and {full_nbytes} in full"
    return None


async def _answer(model: Path, dial: Dial | None, *, chunked: bool) -> tuple[str, int]:
    """The greedy answer, and the most bytes that the layer caches of the running batch held."""
    from hwledger_omlx.fork import probe_model

    def prepare(config: Any) -> None:
        config.chunked_prefill = chunked
        config.prefill_step_size = 100

    async with probe_model.engine(model, prepare) as engine:
        if dial is not None:
            set_dial(engine._engine.engine.scheduler, dial)
        return await probe_model.answer(engine, _PROMPT, _ANSWER_TOKENS)
