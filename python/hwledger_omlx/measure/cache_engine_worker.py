"""The contestants of `bench cache` that generate: our engine with its paged cache, the bare fork with its own, mlx-lm.

Loaded by path and importing nothing of hwledger_omlx at the top, so that the bare fork's process holds no patch of
ours. Each process is one life of an engine: opened on a cache folder, asked, closed so that a later one can restore.

In: `{"prompt": text, "max_tokens": n}`, or `{"close": true}`, which ends the engine with everything stored.
Out: `{"ttft_s", "text", "tokens", "cached_tokens", "copied_bytes"}`, or null.
"""

import concurrent.futures
import gc
import importlib
import importlib.util
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

_WARM_PROMPT = "A few words to get going"
_WARM_TOKENS = 8
_MOST_STORING_S = 500.0
"""Most that the fork is given to store what it was asked to, before its engine is closed."""


class Piece(NamedTuple):
    """Something of an answer, as it arrives."""

    new_tokens: int
    text: str
    cached_tokens: int


Stream = Callable[[str, int], AsyncIterator[Piece]]
"""Prompt and max_tokens in; greedy."""
Answer = Callable[[dict[str, Any]], dict[str, Any] | None]


def _beside(name: str) -> Any:
    """The module in the file `name` of this folder, without importing the package that it stands in."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, Path(__file__).with_name(name))
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def open_engine(options: dict[str, Any]) -> Iterator[Answer]:
    """Our engine. Options: `model` (folder), `fork` (folder or null), `cache_dir`."""
    hw = importlib.import_module("hwledger_omlx")
    engine = hw.AsyncEngine(
        options["model"], cache="paged", cache_dir=options["cache_dir"], fork=options["fork"], progress=False
    )

    async def stream(prompt: str, max_tokens: int) -> AsyncIterator[Piece]:
        async for event in engine.stream(prompt, max_tokens=max_tokens, temperature=0.0):
            if event.kind == "token":
                yield Piece(len(event.token_ids), event.text, 0)
            elif event.kind == "done":
                yield Piece(0, "", event.result.usage.cached_tokens)

    with _beside("engine_worker.py")._loop_thread() as run:
        run(engine.start())
        live = importlib.import_module("hwledger_omlx.hooks.layer_caches.live")
        with _closing(lambda: run(engine.close())) as close:
            yield lambda request: _answer(run, stream, close, request, lambda: live.copied.nbytes)


@contextmanager
def open_bare_fork(options: dict[str, Any]) -> Iterator[Answer]:
    """The fork as its own server drives it, its cache on. Options as for `open_engine`."""
    if options["fork"] is not None:
        sys.path.insert(0, options["fork"])
    pool_class = importlib.import_module("omlx.engine_pool").EnginePool
    scheduler_config = importlib.import_module("omlx.scheduler").SchedulerConfig
    model = Path(options["model"])

    async def start() -> tuple[Any, Any]:
        pool = pool_class(scheduler_config=scheduler_config(paged_ssd_cache_dir=options["cache_dir"]))
        pool.discover_models(str(model.parent))
        return pool, await pool.get_engine(model.name, force_lm=True)

    with _beside("engine_worker.py")._loop_thread() as run:
        pool, engine = run(start())

        async def stream(prompt: str, max_tokens: int) -> AsyncIterator[Piece]:
            seen = 0
            async for output in engine.stream_generate(prompt, max_tokens=max_tokens, temperature=0.0, top_p=1.0):
                yield Piece(output.completion_tokens - seen, output.new_text, output.cached_tokens)
                seen = output.completion_tokens

        def stored_and_closed() -> None:
            _wait_until_stored(engine)
            run(pool.shutdown())

        def answer(request: dict[str, Any]) -> dict[str, Any] | None:
            if any(name.partition(".")[0] == "hwledger_omlx" for name in sys.modules):
                raise RuntimeError("hwledger_omlx was imported into the bare fork's process, so it is not bare")
            return _answer(run, stream, close, request, lambda: 0)

        with _closing(stored_and_closed) as close:
            yield answer


@contextmanager
def open_in_memory(options: dict[str, Any]) -> Iterator[Answer]:
    """mlx-lm alone, with a prefix computed once and kept in memory. Options: `model`, `prefix`, `chunk_tokens`.

    A prompt has to begin with the prefix; what follows it is computed, and taken out of the cache again afterwards.
    """
    mx = importlib.import_module("mlx.core")
    generate_step = importlib.import_module("mlx_lm.generate").generate_step
    caches = importlib.import_module("mlx_lm.models.cache")
    model, tokenizer = importlib.import_module("mlx_lm").load(options["model"])
    prefix = tokenizer.encode(options["prefix"])
    cache = caches.make_prompt_cache(model)

    def tokens_of(prompt: list[int], max_tokens: int) -> Iterator[int]:
        steps = generate_step(
            mx.array(prompt),
            model,
            prompt_cache=cache,
            max_tokens=max_tokens,
            prefill_step_size=options["chunk_tokens"],
        )
        return (int(token) for token, _ in steps)

    def answer(request: dict[str, Any]) -> dict[str, Any] | None:
        if request.get("close"):
            return None
        prompt = tokenizer.encode(request["prompt"])
        if prompt[: len(prefix)] != prefix:
            raise ValueError("the prompt does not begin with the prefix in memory")
        _ = list(tokens_of(prompt[len(prefix) :], 1))  # A process that was halted starts cold.
        caches.trim_prompt_cache(cache, cache[0].offset - len(prefix))
        gc.collect()
        start_s = time.perf_counter()
        made = []
        ttft_s = 0.0
        for token in tokens_of(prompt[len(prefix) :], request["max_tokens"]):
            ttft_s = ttft_s or time.perf_counter() - start_s
            made.append(token)
        caches.trim_prompt_cache(cache, cache[0].offset - len(prefix))
        return {
            "ttft_s": ttft_s,
            "text": tokenizer.decode(made),
            "tokens": len(made),
            "cached_tokens": len(prefix),
            "copied_bytes": 0,
        }

    _ = list(tokens_of(prefix, 1))
    caches.trim_prompt_cache(cache, cache[0].offset - len(prefix))
    yield answer


@contextmanager
def _closing(close: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Gives a function that closes; at the end it is closed if it was not."""
    closed = False

    def once() -> None:
        nonlocal closed
        if not closed:
            closed = True
            close()

    try:
        yield once
    finally:
        once()


def _answer(
    run: Callable[[Awaitable[Any]], Any],
    stream: Stream,
    close: Callable[[], None],
    request: dict[str, Any],
    copied_bytes: Callable[[], int],
) -> dict[str, Any] | None:
    if request.get("close"):
        close()
        return None
    # What the first request of a process pays for besides is not what a cache can save.
    run(_one(stream, _WARM_PROMPT, _WARM_TOKENS, copied_bytes))
    gc.collect()
    return dict(run(_one(stream, request["prompt"], request["max_tokens"], copied_bytes)))


async def _one(stream: Stream, prompt: str, max_tokens: int, copied_bytes: Callable[[], int]) -> dict[str, Any]:
    before_bytes = copied_bytes()
    start_s = time.perf_counter()
    ttft_s: float | None = None
    until_first_bytes = 0
    tokens = cached_tokens = 0
    texts = []
    async for piece in stream(prompt, max_tokens):
        if piece.new_tokens and ttft_s is None:
            ttft_s = time.perf_counter() - start_s
            until_first_bytes = copied_bytes() - before_bytes
        tokens += piece.new_tokens
        cached_tokens = max(cached_tokens, piece.cached_tokens)
        texts.append(piece.text)
    return {
        "ttft_s": ttft_s,
        "text": "".join(texts),
        "tokens": tokens,
        "cached_tokens": cached_tokens,
        "copied_bytes": until_first_bytes,
    }


def _wait_until_stored(engine: Any) -> None:
    """Waits until the fork has stored what it took: closed sooner, it may give up on some of it after a minute."""
    scheduler = engine._engine.engine.scheduler
    until_s = time.monotonic() + _MOST_STORING_S
    storing = list(getattr(scheduler, "_inflight_store_futures", {}).values())
    concurrent.futures.wait(storing, timeout=_MOST_STORING_S)
    writing = getattr(scheduler.paged_ssd_cache_manager, "_pending_write_hashes", ())
    while writing and time.monotonic() < until_s:
        time.sleep(0.05)
