"""`bench engine`: what our engine adds to the fork in time and memory. Same model, same prompts, one run.

Knows the workers of `engine_worker.py` and how their answers become measurements; no engine runs in this process.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hwledger_omlx.engine import model_folder
from hwledger_omlx.engine.model_folder import ModelFolder
from hwledger_omlx.errors import HarnessError
from hwledger_omlx.fork.locate import Fork, locate
from hwledger_omlx.measure.bars import Bar, Comparison, Result
from hwledger_omlx.measure.environment import environment
from hwledger_omlx.measure.harness import Contestant, Measure, Turn, measure_in_turns
from hwledger_omlx.measure.prompts import Prompts, endless_copy
from hwledger_omlx.measure.report import Report
from hwledger_omlx.measure.worker_process import WorkerProcess

OURS = "hwledger-omlx"
BARE = "bare fork"
_BAR = Bar.ratio_at_least(0.97)
_WORKER = Path(__file__).with_name("engine_worker.py")
_SHORT_PROMPT_TOKENS = 32
_TTFT_TOKENS = 4  # a few, so that the first token is not also the last, which costs the clearing up as well
_MEMORY = "memory"

OnTurn = Callable[[str, Turn, int, int], None]
Ask = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBench:
    """What to measure."""

    model: str | Path
    """A local folder, or a Hugging Face id where online."""
    fork: Path | None = None
    """Folder of an oMLX checkout, for both contestants; None for `HWLEDGER_OMLX_FORK` or the installed `omlx`."""
    rounds: int = 11
    warm_up: int = 1
    prompt_tokens: int = 512
    """Length of the prompt whose TTFT is measured. The prompts of the throughput cases have at most 32 tokens, so that
    they measure decoding and not prefill once more."""
    max_tokens: int = 32
    """Tokens that each request of the throughput cases generates."""
    concurrency: Sequence[int] = (1, 4, 8)
    """Numbers of requests at the same time."""

    def run(self, on_turn: OnTurn | None = None) -> Report:
        """Measures, and returns the report.

        Raises:
            ModelError: no such model.
            ForkError: no usable fork.
            HarnessError: impossible options, or a contestant failed.
        """
        self._check()
        found_fork = locate(self.fork)
        folder = model_folder.locate(self.model)
        self._check_fits(folder)
        around = environment(fork=f"{found_fork.distribution or 'checkout'} {found_fork.version}")
        texts = Texts()
        with tempfile.TemporaryDirectory(prefix="hwledger-bench-") as scratch:
            endless = endless_copy(folder.path, Path(scratch) / "models")
            prompts = Prompts(endless)
            contestants = [
                self._contestant(OURS, "open_engine", endless, found_fork, prompts, texts, Path(scratch)),
                self._contestant(BARE, "open_bare_fork", endless, found_fork, prompts, texts, Path(scratch)),
            ]
            samples = measure_in_turns(
                contestants,
                cases=self._cases(),
                rounds=self.rounds,
                warm_up=self.warm_up,
                closing_case=_MEMORY,
                on_turn=on_turn,
            )
        results = [samples.compare(comparison) for comparison in self._comparisons()]
        results += [same_text(texts, "ttft", "same greedy text, 1 request", Bar.value_at_least(1.0))]
        # Requests join the batch as they arrive, and MLX takes other kernels for other batch sizes: a near-tie may fall
        # either way, in the bare fork against itself too. So this is shown, and no bar.
        many = [f"concurrent {requests}" for requests in self.concurrency if requests > 1]
        results += [same_text(texts, case, f"same greedy text, {case.split()[1]} requests", None) for case in many]
        return Report("bench engine", "our engine against the bare fork", results, around, self._notes(folder, texts))

    def _check(self) -> None:
        if not self.concurrency or min(self.concurrency) < 1 or len(set(self.concurrency)) != len(self.concurrency):
            raise HarnessError("concurrency must be different numbers of requests, each at least 1, such as 1,4,8")
        if self.prompt_tokens < 1 or self.max_tokens < 2 or self.rounds < 1 or self.warm_up < 0:
            raise HarnessError("give at least 1 round, 1 prompt token and 2 tokens to generate")

    def _check_fits(self, folder: ModelFolder) -> None:
        longest = max(self.prompt_tokens + _TTFT_TOKENS, self._short_prompt_tokens + self.max_tokens)
        if folder.context_tokens is not None and longest > folder.context_tokens:
            raise HarnessError(
                f"{folder.model_id} has a context of {folder.context_tokens} tokens, and this would take {longest}; "
                "lower --prompt-tokens or --max-tokens"
            )

    @property
    def _short_prompt_tokens(self) -> int:
        return min(_SHORT_PROMPT_TOKENS, self.prompt_tokens)

    def _cases(self) -> list[str]:
        return ["ttft", *(f"concurrent {requests}" for requests in self.concurrency)]

    def _comparisons(self) -> list[Comparison]:
        def against_bare(
            name: str, measurement: str, unit: str, *, lower: bool = False, bar: Bar | None = _BAR
        ) -> Comparison:
            return Comparison(
                name=name,
                measurement=measurement,
                unit=unit,
                better="lower" if lower else "higher",
                contestant=OURS,
                against=BARE,
                bar=bar,
            )

        found = [against_bare(f"TTFT, {self.prompt_tokens}-token prompt", "ttft_s", "s", lower=True)]
        for requests in self.concurrency:
            label = f"{requests} request{'s' if requests > 1 else ''}"
            found += [
                against_bare(f"decode, {label}", f"decode_tokens_per_s {requests}", "tokens/s"),
                against_bare(f"prefill and decode, {label}", f"tokens_per_s {requests}", "tokens/s"),
            ]
        most = max(self.concurrency)
        return [
            *found,
            # What a neighbour's load disturbs least, hence a check on the times above; no promise of its own.
            against_bare(
                f"CPU time, {most} request{'s' if most > 1 else ''}", f"cpu_s {most}", "s", lower=True, bar=None
            ),
            against_bare("peak memory of the process", "peak_rss_bytes", "B", lower=True),
            against_bare("peak memory of MLX arrays", "peak_mlx_bytes", "B", lower=True),
        ]

    def _notes(self, folder: ModelFolder, texts: "Texts") -> list[str]:
        notes = [
            f"Model {folder.model_id} ({folder.model_type}, {folder.weights_bytes / 1e6:.1f} MB of weights), its "
            f"end-of-text token taken away. {self.rounds} rounds after {self.warm_up} of warm-up. Throughput: prompts "
            f"of {self._short_prompt_tokens} tokens, {self.max_tokens} tokens generated by each request.",
            "No KV cache in either, and every prompt new. Each contestant has a process of its own, the bare fork's "
            "without any of our code.",
        ]
        if texts.short:
            notes.append(f"{texts.short} requests ended before their last token; rates count what was generated.")
        return notes

    def _contestant(
        self, name: str, function: str, model: Path, fork: Fork, prompts: Prompts, texts: "Texts", scratch: Path
    ) -> Contestant:
        options = {
            "model": str(model),
            "fork": None if fork.source == "installed" else str(fork.path),
            "max_concurrent_requests": max(8, *self.concurrency),
        }

        @contextmanager
        def opened() -> Iterator[Measure]:
            with WorkerProcess(name, f"{_WORKER}:{function}", options, env=_own_home(scratch / function)) as worker:
                yield self.measure(name, worker.call, prompts.make, texts)

        return Contestant(name, opened)

    def measure(self, name: str, ask: Ask, prompt: Callable[..., str], texts: "Texts") -> Measure:
        """What a contestant does in its turn: asks the worker and turns its answer into measurements."""

        def one_turn(turn: Turn) -> Mapping[str, float]:
            if turn.case == _MEMORY:
                return {key: float(value) for key, value in ask({"memory": True}).items()}
            ttft = turn.case == "ttft"
            requests = 1 if ttft else int(turn.case.split()[1])
            length = self.prompt_tokens if ttft else self._short_prompt_tokens
            max_tokens = _TTFT_TOKENS if ttft else self.max_tokens
            made = [prompt(length, turn.round, turn.case, request) for request in range(requests)]
            answer = ask({"prompts": made, "max_tokens": max_tokens})
            served = [Served(**each) for each in answer["requests"]]
            if nothing := sum(not each.arrivals_s for each in served):
                raise HarnessError(f"contestant {name!r} generated nothing for {nothing} of {requests} requests")
            if not turn.warm_up:
                texts.add(name, turn, served, max_tokens)
            if ttft:
                return {"ttft_s": served[0].arrivals_s[0]}
            return {**rates(served), f"cpu_s {requests}": answer["cpu_s"]}

        return one_turn


class Served(NamedTuple):
    """A request as its consumer saw it."""

    arrivals_s: list[float]
    """For each token, seconds from the submission of all requests of the turn to its arrival."""
    text: str


def rates(served: Sequence[Served]) -> dict[str, float]:
    """Tokens per second of N requests served together.

    `tokens_per_s N`: all tokens over the time from submission to the last token. `decode_tokens_per_s N`: the tokens
    that came after every request had its first, over the time that they took. So decoding is measured with the batch at
    its full size, however the prefills before it were staggered.
    """
    requests = len(served)
    ended_s = max(each.arrivals_s[-1] for each in served)
    all_began_s = max(each.arrivals_s[0] for each in served)
    if all_began_s >= ended_s:
        raise HarnessError("no token came after the last request's first; generate more tokens")
    decoded = sum(arrival_s > all_began_s for each in served for arrival_s in each.arrivals_s)
    return {
        f"decode_tokens_per_s {requests}": decoded / (ended_s - all_began_s),
        f"tokens_per_s {requests}": sum(len(each.arrivals_s) for each in served) / ended_s,
    }


@dataclass(slots=True)
class Texts:
    """What each contestant generated, by case and round, to be compared."""

    by_contestant: dict[str, dict[tuple[str, int], list[str]]] = field(default_factory=dict)
    short: int = 0
    """Requests that ended before `max_tokens`."""

    def add(self, contestant: str, turn: Turn, served: Sequence[Served], max_tokens: int) -> None:
        """Keeps one turn's texts."""
        self.short += sum(len(each.arrivals_s) < max_tokens for each in served)
        self.by_contestant.setdefault(contestant, {})[turn.case, turn.round] = [each.text for each in served]

    def same_by_round(self, case: str) -> list[float]:
        """Share of the requests with equal texts, for each round."""
        ours, bare = (self.by_contestant.get(name, {}) for name in (OURS, BARE))
        return [
            sum(a == b for a, b in zip(texts, bare[key], strict=True)) / len(texts)
            for key, texts in ours.items()
            if key[0] == case and key in bare
        ]


def same_text(texts: Texts, case: str, name: str, bar: Bar | None) -> Result:
    """Share of all requests of a case for which both contestants generated the same text."""
    shares = texts.same_by_round(case)
    if not shares:
        raise HarnessError(f"no texts of case {case!r} to compare")
    return Result(
        name=name,
        value=sum(shares) / len(shares),
        unit="",
        bar=bar,
        spread=(min(shares), max(shares)),
        rounds=len(shares),
        contestant=OURS,
    )


def _own_home(folder: Path) -> dict[str, str]:
    """Variables that keep a worker's files in `folder`: neither contestant reads or writes anything of the user's."""
    folder.mkdir()
    place = str(folder)
    return {
        "HOME": place,
        "HWLEDGER_OMLX_HOME": os.fspath(folder / "hwledger"),
        "FMLX_BASE_PATH": os.fspath(folder / "fork"),
        "OMLX_BASE_PATH": os.fspath(folder / "fork"),
        "HF_HUB_OFFLINE": "1",
    }
