"""Sampling with a seed that depends on the request alone: its seed, and how many tokens it has drawn.

MLX has one random state per thread, and upstream seeds it when a request joins the batch, so that each request's draws
depend on the others'. Here each call of a sampler seeds the state first: MLX takes the key when the graph is built, so
this holds for lazy arrays too. Greedy requests are left alone. It promises nothing about the logits, which may differ
in the last bits between batches of different sizes.
"""

import asyncio
import functools
import secrets
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwledger_omlx.fork.load import LoadedFork

Sampler = Callable[[Any], Any]

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def mix(seed: int, step: int) -> int:
    """The 64-bit seed of one draw: output number `step` of the SplitMix64 generator started at `seed`.

    Constants as in Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
    """
    # The seed is mixed before the steps are added: else seeds that are one gamma apart would share their draws.
    return _finalize((_finalize(seed & _MASK) + (step + 1) * _GAMMA) & _MASK)


def _finalize(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class _Unseeded(threading.local):
    """The stream of a thread for requests without a seed; started from the operating system's entropy."""

    def __init__(self) -> None:
        self.seed = secrets.randbits(64)
        self.step = 0

    def next(self) -> int:
        self.step += 1
        return mix(self.seed, self.step)


_unseeded = _Unseeded()


def build_sampler(wrapped: Callable[..., Any], instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler._build_sampler_and_processors`; its result is `(sampler, processors)`."""
    sampler, processors = wrapped(*args, **kwargs)
    return _seeding(sampler, *args, **kwargs), processors


def _seeding(sampler: Sampler, sampling_params: Any, request: Any = None) -> Sampler:
    if not sampling_params.temperature > 0:
        return sampler
    # Requests without a seed seed each draw too: what a seeded neighbour, or upstream on its behalf, has left in the
    # thread's state would otherwise make them repeat themselves.
    import mlx.core as mx

    draws = _unseeded.next
    if sampling_params.seed is not None:
        # A request that is put back into the queue with part of its output goes on where it was.
        step = len(getattr(request, "output_token_ids", None) or ())
        draws = _Draws(int(sampling_params.seed), step)

    # update_wrapper: upstream reads the sampling parameters off the sampler's attributes.
    @functools.wraps(sampler)
    def seeded(logprobs: Any) -> Any:
        mx.random.seed(draws())
        return sampler(logprobs)

    return seeded


class _Draws:
    """The seeds of one request's draws, in order."""

    def __init__(self, seed: int, step: int) -> None:
        self.seed = seed
        self.step = step

    def __call__(self) -> int:
        self.step += 1
        return mix(self.seed, self.step - 1)


def self_test(loaded: "LoadedFork") -> str | None:
    """Greedy text as without the hook; seeded text the same alone, again, and in a batch; other seeds, other text."""
    from hwledger_omlx.fork import probe_model

    hook = next(report.id for report in loaded.hooks if report.target.endswith("._build_sampler_and_processors"))
    with tempfile.TemporaryDirectory(prefix="hwledger-omlx-probe-") as folder:
        return asyncio.run(_compare(loaded, hook, probe_model.write(Path(folder))))


async def _compare(loaded: "LoadedFork", hook: str, model: Path) -> str | None:
    from hwledger_omlx.fork import probe_model

    prompt, crowd = "the quick brown fox", [("another prompt", 5), ("and a third one", None), ("no seed", None)]
    async with probe_model.engine(model) as engine:

        async def text(prompt: str, seed: int | None, temperature: float = 1.0) -> str:
            output = await engine.generate(prompt, max_tokens=24, temperature=temperature, top_p=1.0, seed=seed)
            return str(output.text)

        greedy = await text(prompt, 7, 0.0)
        with loaded.lifted(hook):
            upstream = await text(prompt, 7, 0.0)
        alone = {seed: await text(prompt, seed) for seed in (7, 8, 9)}
        again = await text(prompt, 7)
        batched, unseeded = {}, set()
        for seed in alone:
            batched[seed], *rest = await asyncio.gather(text(prompt, seed), *(text(*each) for each in crowd))
            unseeded |= {rest[-1], await text(prompt, None)}
    if greedy != upstream:
        return f"greedy text differs with the hook: {greedy!r}, without {upstream!r}"
    if alone[7] != again:
        return f"seed 7 gave {alone[7]!r}, then {again!r}"
    # One is enough: without the hook none agrees, and with it a device that rounds otherwise for a batch may spoil one.
    if not any(alone[seed] == batched[seed] for seed in alone):
        return f"seeds gave {alone!r}, but in a batch {batched!r}"
    if len(set(alone.values())) < 3 or len(unseeded) < 6:
        return f"draws repeat: {alone!r}, without a seed {unseeded!r}"
    return None
