"""The two contestants of `bench engine`, each in its own worker process: our engine, and the bare fork.

Loaded by path and importing nothing of hwledger_omlx at the top, so that the bare fork's process holds no patch of
ours. Both are asked the same and answer the same: the times of each request as its consumer saw them. No KV cache in
either: this bench is about computing; the cache has a bench of its own.
"""

import asyncio
import gc
import importlib
import platform
import resource
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Stream = Callable[[str, int], AsyncIterator[tuple[int, str]]]
"""Prompt and max_tokens in; new tokens' count and text out, greedy."""
_WARM_TOKENS = 48
Answer = Callable[[dict[str, Any]], dict[str, Any]]


@contextmanager
def open_engine(options: dict[str, Any]) -> Iterator[Answer]:
    """Our engine. Options: `model` (folder), `fork` (folder or null), `max_concurrent_requests`."""
    hw = importlib.import_module("hwledger_omlx")
    engine = hw.AsyncEngine(
        options["model"],
        cache=None,
        fork=options["fork"],
        max_concurrent_requests=options["max_concurrent_requests"],
        progress=False,
    )

    async def stream(prompt: str, max_tokens: int) -> AsyncIterator[tuple[int, str]]:
        async for event in engine.stream(prompt, max_tokens=max_tokens, temperature=0.0):
            if event.kind == "token":
                yield len(event.token_ids), event.text

    with _loop_thread() as run:
        run(engine.start())
        try:
            yield lambda request: _answer(run, stream, request)
        finally:
            run(engine.close())


@contextmanager
def open_bare_fork(options: dict[str, Any]) -> Iterator[Answer]:
    """The fork as its own server drives it, on an event loop that always runs. Options as for `open_engine`."""
    if options["fork"] is not None:
        sys.path.insert(0, options["fork"])
    pool_class = importlib.import_module("omlx.engine_pool").EnginePool
    scheduler_config = importlib.import_module("omlx.scheduler").SchedulerConfig
    limit = options["max_concurrent_requests"]
    model = Path(options["model"])

    async def start() -> tuple[Any, Any]:
        config = scheduler_config(max_num_seqs=limit, completion_batch_size=limit, paged_ssd_cache_dir=None)
        pool = pool_class(scheduler_config=config)
        pool.discover_models(str(model.parent))
        return pool, await pool.get_engine(model.name, force_lm=True)

    with _loop_thread() as run:
        pool, engine = run(start())

        async def stream(prompt: str, max_tokens: int) -> AsyncIterator[tuple[int, str]]:
            seen = 0
            async for output in engine.stream_generate(prompt, max_tokens=max_tokens, temperature=0.0, top_p=1.0):
                yield output.completion_tokens - seen, output.new_text
                seen = output.completion_tokens

        def answer(request: dict[str, Any]) -> dict[str, Any]:
            if any(name.partition(".")[0] == "hwledger_omlx" for name in sys.modules):
                raise RuntimeError("hwledger_omlx was imported into the bare fork's process, so it is not bare")
            return _answer(run, stream, request)

        try:
            yield answer
        finally:
            run(pool.shutdown())


@contextmanager
def _loop_thread() -> Iterator[Callable[[Awaitable[Any]], Any]]:
    """An event loop that runs all the time, as in a server; gives a function that runs a coroutine on it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def finished(work: Awaitable[Any]) -> Any:
        return await work

    try:
        yield lambda work: asyncio.run_coroutine_threadsafe(finished(work), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _answer(run: Callable[[Awaitable[Any]], Any], stream: Stream, request: dict[str, Any]) -> dict[str, Any]:
    """`{"prompts": [...], "max_tokens": n}`: all at once; or `{"memory": true}`: the peaks since the start."""
    if request.get("memory"):
        return {"peak_rss_bytes": peak_rss_bytes(), "peak_mlx_bytes": peak_mlx_bytes()}
    gc.collect()
    # A process that was halted starts cold: caches, clocks and reclaimed pages cost it a third of its speed at first.
    run(_all_at_once(stream, ["A few words to get going."] * len(request["prompts"]), _WARM_TOKENS))
    before_s = time.process_time()
    requests = run(_all_at_once(stream, request["prompts"], request["max_tokens"]))
    return {"requests": requests, "cpu_s": time.process_time() - before_s}


async def _all_at_once(stream: Stream, prompts: list[str], max_tokens: int) -> list[dict[str, Any]]:
    """Each request's text and, for each of its tokens, the seconds from the submission of all to its arrival."""
    start_s = time.perf_counter()

    async def one(prompt: str) -> dict[str, Any]:
        arrivals_s: list[float] = []
        texts = []
        async for new_tokens, text in stream(prompt, max_tokens):
            if new_tokens:
                arrivals_s += [time.perf_counter() - start_s] * new_tokens
            texts.append(text)
        # The fork drops a space at the start of an answer, and we don't; what counts is what was generated.
        return {"arrivals_s": arrivals_s, "text": "".join(texts).removeprefix(" ")}

    return list(await asyncio.gather(*(one(prompt) for prompt in prompts)))


def peak_rss_bytes() -> int:
    """Most memory that this process had resident, in bytes."""
    # Linux passes ru_maxrss on from the process that forked, which is not ours; VmHWM belongs to the program itself.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def peak_mlx_bytes() -> int:
    """Most bytes of MLX arrays that were alive at a time."""
    return int(importlib.import_module("mlx.core").get_peak_memory())
