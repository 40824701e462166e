"""Proves patch 003 on a fork whose scheduler has changed: the same greedy text, restored to the token."""

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwledger_omlx._native import Store
from hwledger_omlx.hooks.paged_cache.binding import Binding

if TYPE_CHECKING:
    from hwledger_omlx.fork.load import LoadedFork

_GIB = 1 << 30
_PROMPT = "the quick brown fox jumps over the lazy dog, and then it does so again, and again. " * 8
_EDITED = _PROMPT[:400] + "No." + _PROMPT[403:]


def self_test(loaded: "LoadedFork") -> str | None:
    """Greedy text of a prompt, sent again, edited and continued, is that without the cache; in both ways to prefill."""
    from hwledger_omlx.fork import probe_model

    with tempfile.TemporaryDirectory(prefix="hwledger-omlx-self-test-") as folder:
        model = probe_model.write(Path(folder) / "model")
        return asyncio.run(_compare(model, Path(folder)))


async def _compare(model: Path, folder: Path) -> str | None:
    plain, _ = await _texts(model, None, chunked=False)
    for chunked in (False, True):
        store = Store.open(
            folder / f"kv-{chunked}", quota_bytes=_GIB, hot_bytes=_GIB, queue_bytes=_GIB, min_free_bytes=0
        )
        with store:
            bound = Binding(store, folder / "memo", {})
            first, restored = await _texts(model, bound, chunked=chunked)
            again, restored_again = await _texts(model, bound, chunked=chunked)
        if first != plain or again != plain:
            return f"greedy text differs with the cache: {plain!r}, then {first!r} and {again!r}"
        prompt = len(_PROMPT)
        wanted = [0, prompt - 1, 400, prompt]
        if restored[:3] != wanted[:3] or restored[3] < wanted[3]:
            return f"restored {restored} tokens of the prompts, not {wanted}"
        if restored_again[0] != prompt - 1:
            return f"a new engine restored {restored_again[0]} tokens, not {prompt - 1}"
    return None


async def _texts(model: Path, bound: Binding | None, *, chunked: bool) -> tuple[list[str], list[int]]:
    """Greedy answers to the prompt, the same again, edited and continued; and the tokens restored for each."""
    from hwledger_omlx.fork import probe_model

    def prepare(config: Any) -> None:
        config.chunked_prefill = chunked
        config.prefill_step_size = 200
        if bound is not None:
            bound.bind(config)

    texts: list[str] = []
    restored: list[int] = []
    async with probe_model.engine(model, prepare) as engine:
        continued = ""
        for prompt in (_PROMPT, _PROMPT, _EDITED, None):
            asked = continued if prompt is None else prompt
            output = await engine.generate(asked, max_tokens=16, temperature=0.0)
            texts.append(str(output.text))
            restored.append(int(output.cached_tokens))
            continued = continued or _PROMPT + " And so on, for as long as it takes."
    return texts, restored
