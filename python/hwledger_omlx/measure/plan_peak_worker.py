"""The process of `bench plan` that runs requests through the engine and asks MLX for its peak memory.

In: `{"prompt_tokens", "max_tokens", "requests", "seed"}`. Out: `{"peak_bytes", "prompt_tokens", "completion_tokens"}`,
the last two of the longest request. No cache beyond a request: what is stored is in no plan.
"""

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx

import hwledger_omlx as hw
from hwledger_omlx.measure.prompts import Prompts


@contextmanager
def open_engine(options: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], dict[str, int]]]:
    """Options: `model` (folder), `max_concurrent_requests`."""
    with asyncio.Runner() as runner:
        engine = hw.AsyncEngine(
            options["model"],
            cache=None,
            max_concurrent_requests=options["max_concurrent_requests"],
            progress=False,
        )
        runner.run(engine.start())
        prompts = Prompts(Path(options["model"]))
        try:
            yield lambda request: runner.run(_one(engine, prompts, request))
        finally:
            runner.run(engine.close())


async def _one(engine: Any, prompts: Prompts, request: dict[str, Any]) -> dict[str, int]:
    asked = [prompts.make(request["prompt_tokens"], request["seed"], number) for number in range(request["requests"])]
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    results = await asyncio.gather(*(_generated(engine, prompt, request["max_tokens"]) for prompt in asked))
    peak_bytes = int(mx.get_peak_memory())
    longest = max(results, key=lambda result: result.usage.prompt_tokens)
    return {
        "peak_bytes": peak_bytes,
        "prompt_tokens": longest.usage.prompt_tokens,
        "completion_tokens": longest.usage.completion_tokens,
    }


async def _generated(engine: Any, prompt: str, max_tokens: int) -> Any:
    async for event in engine.stream(prompt, max_tokens=max_tokens, temperature=0.0):
        if event.kind == "done":
            return event.result
    raise RuntimeError("the engine's stream ended without a result")
