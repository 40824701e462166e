"""The process of `bench memory`: one engine that decodes with the memory hooks in their places, or with upstream's own.

In: `{"sampled": bool, "kv": POLICY, "prompts": [...], "max_tokens": n}`. Out: what the steps of decoding took, and
what of that the hooks took. Steps in which a request came or went are left out, but for what the hooks took in them.
"""

import concurrent.futures
import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import hwledger_omlx as hw
from hwledger_omlx.engine import upstream
from hwledger_omlx.errors import HarnessError
from hwledger_omlx.hooks.layer_memory.attached import attached
from hwledger_omlx.hooks.layer_memory.sampler import Sampler

_PATCH = "layer-memory"


@contextmanager
def open_engine(options: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], dict[str, float]]]:
    """Options: `model` (folder), `max_concurrent_requests`."""
    with hw.Engine(
        options["model"],
        cache=None,
        max_concurrent_requests=options["max_concurrent_requests"],
        progress=False,
    ) as engine:
        yield lambda request: _one(engine, request)


def _one(engine: hw.Engine, request: dict[str, Any]) -> dict[str, float]:
    scheduler = upstream.scheduler_of(next(iter(engine._session.loaded.values())).placed)
    sampler = attached(scheduler)
    if sampler is None:
        raise HarnessError("the memory hooks are not in use")
    engine.set_kv_policy(request["kv"])
    prompts, max_tokens = request["prompts"], int(request["max_tokens"])
    gc.collect()
    before = sampler.ledger.samples
    with ExitStack() as stack:
        if not request["sampled"]:
            # Not only without samples: without the hooks.
            for hook in engine._session.fork.hooks:
                if hook.patch.endswith(_PATCH) and hook.status in {"applied", "drifted"}:
                    stack.enter_context(engine._session.fork.lifted(hook.id))
        spent = stack.enter_context(_hooks_timed(sampler))
        steps = stack.enter_context(_steps_timed(scheduler, len(prompts)))
        with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
            list(pool.map(lambda prompt: engine.generate(prompt, max_tokens=max_tokens, temperature=0.0), prompts))
    if not steps:
        raise HarnessError("no step had all requests in it; give them more tokens")
    samples = sampler.ledger.samples - before
    return {
        "step_s": sum(steps) / len(steps),
        "hooks_share": sum(spent) / sum(steps),
        "sample_s": sum(spent) / samples if samples else 0.0,
    }


@contextlib.contextmanager
def _hooks_timed(sampler: Sampler) -> Iterator[list[float]]:
    """What the hook of a step took, for each step."""
    spent: list[float] = []
    stepped = sampler.stepped

    def timed(*args: Any) -> None:
        start_s = time.perf_counter()
        stepped(*args)
        spent.append(time.perf_counter() - start_s)

    vars(sampler)["stepped"] = timed
    try:
        yield spent
    finally:
        del vars(sampler)["stepped"]


@contextlib.contextmanager
def _steps_timed(scheduler: Any, requests: int) -> Iterator[list[float]]:
    """What each step took in which all requests were decoded, the hooks included."""
    steps: list[float] = []
    kind = type(scheduler)

    def timed() -> Any:
        ready = len(scheduler.running) == requests
        start_s = time.perf_counter()
        output = kind.step(scheduler)
        took_s = time.perf_counter() - start_s
        if ready and len(scheduler.running) == requests:
            steps.append(took_s)
        return output

    vars(scheduler)["step"] = timed
    try:
        yield steps
    finally:
        del vars(scheduler)["step"]
