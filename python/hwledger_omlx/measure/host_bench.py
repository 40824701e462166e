"""`bench host`: what a token costs from the engine to a Rust program: in the same process, by HTTP, by JSON-RPC.

The engine stamps each output before any surface has touched it; the consumer, the same Rust program for every way,
takes the time when it has the token's text. Both read the machine's monotonic clock. One request at a time.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from hwledger_omlx.engine import model_folder
from hwledger_omlx.errors import HarnessError
from hwledger_omlx.measure.bars import Bar, Comparison, Result
from hwledger_omlx.measure.engine_bench import OnTurn
from hwledger_omlx.measure.environment import environment
from hwledger_omlx.measure.harness import Contestant, Measure, Samples, Turn, measure_in_turns
from hwledger_omlx.measure.host_worker import consume
from hwledger_omlx.measure.program import find_host
from hwledger_omlx.measure.prompts import Prompts, endless_copy
from hwledger_omlx.measure.report import Report
from hwledger_omlx.measure.worker_process import WorkerProcess
from hwledger_omlx.models import NOTES

IN_PROCESS, HTTP, RPC = "in process", "HTTP", "JSON-RPC"
BAR = Bar.value_at_most(50e-6)
"""Seconds, at the median."""
_WORKER = Path(__file__).with_name("host_worker.py")
_PROMPT_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBench:
    """What to measure."""

    model: str | Path | None = None
    """None for the shipped one."""
    host: Path | None = None
    """The host's program; None to look for it."""
    fork: Path | None = None
    rounds: int = 5
    max_tokens: int = 128

    def run(self, on_turn: OnTurn | None = None) -> Report:
        """Measures, and returns the report.

        Raises:
            ModelError: no such model.
            HarnessError: impossible options, no program, or a contestant failed.
        """
        if self.rounds < 1 or self.max_tokens < 8:
            raise HarnessError("give at least 1 round and 8 tokens")
        program = find_host(self.host)
        around = environment()
        with tempfile.TemporaryDirectory(prefix="hwledger-bench-") as scratch:
            folder = model_folder.locate(self.model or NOTES)
            endless = endless_copy(folder.path, Path(scratch) / "models")
            samples = self.measure(program, endless, on_turn)
        notes = [
            f"Model {folder.model_id}, one request of {self.max_tokens} tokens, greedy. From the output of the fork's "
            "engine to the text in a Rust program; tokens after the first. HTTP is /v1/completions of `serve`, over "
            "loopback, JSON-RPC is `generate` of a process that the program starts; both read by the same program.",
        ]
        return Report("bench host", "from the engine to a Rust program, a token", self.results(samples), around, notes)

    def measure(self, program: Path, model: Path, on_turn: OnTurn | None = None) -> Samples:
        """Has the ways take turns."""
        prompts = Prompts(model)

        def command(turn: Turn) -> list[str]:
            prompt = prompts.make(_PROMPT_TOKENS, turn.round)
            # Of the environment that runs this, wherever the working directory is.
            return [str(program), "token-times", "--prompt", prompt, "--max-tokens", str(self.max_tokens), "--venv",
                    sys.prefix, *(["--fork", str(self.fork)] if self.fork else [])]  # fmt: skip

        def in_process(turn: Turn) -> Mapping[str, float]:
            return times(consume([*command(turn), "--model", str(model)]), by=0)

        def over_rpc(turn: Turn) -> Mapping[str, float]:
            with tempfile.TemporaryDirectory(prefix="hwledger-bench-") as scratch:
                stamps = Path(scratch) / "stamps.json"
                served = [
                    sys.executable,
                    "-P",
                    str(_WORKER),
                    str(model),
                    str(stamps),
                    *([str(self.fork)] if self.fork else []),
                ]
                told = consume([*command(turn), "--model", model.name, "--rpc", *served])
                return times({**told, "engine": json.loads(stamps.read_text(encoding="utf-8"))}, by=1)

        @contextmanager
        def over_http() -> Iterator[Measure]:
            options = {"model": str(model), "fork": None if self.fork is None else str(self.fork)}
            with WorkerProcess(HTTP, f"{_WORKER}:open_server", options) as worker:
                yield lambda turn: times(worker.call({"consumer": command(turn)}), by=1)

        contestants = [
            Contestant.of(IN_PROCESS, in_process),
            Contestant(HTTP, over_http),
            Contestant.of(RPC, over_rpc),
        ]
        return measure_in_turns(contestants, rounds=self.rounds, on_turn=on_turn)

    def results(self, samples: Samples) -> list[Result]:
        """The lines of the report."""

        def line(way: str, what: str, measurement: str, **more: Any) -> Result:
            return samples.compare(
                Comparison(
                    name=f"{way}: {what}", measurement=measurement, unit="s", better="lower", contestant=way, **more
                )
            )

        return [
            line(IN_PROCESS, "median, against HTTP", "median_s", against=HTTP, bar=BAR),
            line(IN_PROCESS, "median, against JSON-RPC", "median_s", against=RPC),
            line(IN_PROCESS, "95 of 100 at most", "p95_s", against=HTTP),
            line(HTTP, "median", "median_s"),
            line(HTTP, "95 of 100 at most", "p95_s"),
            line(RPC, "median", "median_s"),
            line(RPC, "95 of 100 at most", "p95_s"),
        ]


def times(told: Mapping[str, Sequence[Sequence[int]]], *, by: int) -> dict[str, float]:
    """How long the tokens took, from the engine's stamps and the consumer's.

    Args:
        told: `engine` and `consumed`, each a list of tokens, characters and nanoseconds.
        by: what tells which token it was: 0 the tokens, 1 the characters that there were by then.

    Raises:
        HarnessError: too few of the consumer's tokens are the engine's.
    """
    engine, consumed = told["engine"], told["consumed"]
    if not engine or not consumed:
        raise HarnessError("no token came")
    # A surface may begin the text with a space that the engine's first output has not.
    shift = consumed[-1][by] - engine[-1][by]
    left = {stamp[by] + shift: stamp[2] for stamp in reversed(engine)}
    taken = [(arrival[2] - left[arrival[by]]) / 1e9 for arrival in consumed[1:] if arrival[by] in left]
    if len(taken) < max(2, len(engine) // 2):
        raise HarnessError(f"of {len(engine)} outputs of the engine {len(taken)} came as they were")
    return {"median_s": median(taken), "p95_s": quantiles(taken, n=20)[-1]}
