"""`bench memory`: what sampling the layers' memory costs a step of decoding.

One process, one engine, which decodes in turns with the hooks in their places and with upstream's own functions there.
The difference of two such times is smaller than the noise between them on most machines, so the hooks' own time is
taken too, and the bar is on its share of decoding; the times with and without stand beside it.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwledger_omlx.engine import model_folder
from hwledger_omlx.errors import HarnessError
from hwledger_omlx.measure.bars import Bar, Comparison, Result
from hwledger_omlx.measure.cache_bench import _GPU_MODEL
from hwledger_omlx.measure.engine_bench import Ask, OnTurn
from hwledger_omlx.measure.environment import environment
from hwledger_omlx.measure.harness import Contestant, Measure, Samples, Turn, measure_in_turns
from hwledger_omlx.measure.kv_decode import has_gpu
from hwledger_omlx.measure.prompts import Prompts, endless_copy
from hwledger_omlx.measure.report import Report
from hwledger_omlx.measure.worker_process import WorkerProcess
from hwledger_omlx.models import NOTES

SAMPLED, BARE = "sampled", "without the hooks"
BAR = Bar.value_at_most(0.01)
"""Share of decoding that the hooks may take."""
_WORKER = Path(__file__).with_name("memory_worker.py")
_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Case:
    """So many requests at a KV policy."""

    requests: int
    kv: str

    @property
    def name(self) -> str:
        """As the report says it."""
        return f"{self.requests} request{'s' if self.requests > 1 else ''}, KV at {self.kv}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBench:
    """What to measure."""

    model: str | Path | None = None
    """None for the shipped one, and on a GPU one of 1.4 G parameters that is made on the spot."""
    rounds: int = 5
    prompt_tokens: int = 64
    max_tokens: int = 96
    """Tokens that each request generates: several samples."""
    concurrency: Sequence[int] = (1, 8)
    policies: Sequence[str] = ("16", "8")

    def run(self, on_turn: OnTurn | None = None) -> Report:
        """Measures, and returns the report.

        Raises:
            ModelError: no such model.
            HarnessError: impossible options, or the worker failed.
        """
        if self.rounds < 1 or self.prompt_tokens < 1 or self.max_tokens < 2 or min(self.concurrency, default=0) < 1:
            raise HarnessError("give at least 1 round, 1 prompt token, 2 tokens to generate and 1 request")
        around = environment()
        with tempfile.TemporaryDirectory(prefix="hwledger-bench-") as scratch:
            folder = model_folder.locate(self._folder(Path(scratch)))
            endless = endless_copy(folder.path, Path(scratch) / "models")
            options = {"model": str(endless), "max_concurrent_requests": max(self.concurrency)}
            with WorkerProcess("memory", f"{_WORKER}:open_engine", options, timeout_s=_TIMEOUT_S) as worker:
                samples = self.measure(worker.call, Prompts(endless), on_turn)
        notes = [
            f"Model {folder.model_id} ({folder.model_type}, {folder.weights_bytes / 1e6:.1f} MB of weights), its "
            f"end-of-text token taken away; {self.max_tokens} tokens of each request. Steps in which all requests were "
            "decoded. The hooks' share is of those steps' time, and counts what the hooks took in all steps.",
        ]
        return Report(
            "bench memory", "what the memory ledger costs a step of decoding", self.results(samples), around, notes
        )

    def _folder(self, scratch: Path) -> str | Path:
        if self.model is None and has_gpu():
            return _GPU_MODEL.write(scratch / "random")
        return self.model or NOTES

    @property
    def cases(self) -> list[Case]:
        """All of them."""
        return [Case(requests, kv) for kv in self.policies for requests in self.concurrency]

    def measure(self, ask: Ask, prompts: Prompts, on_turn: OnTurn | None = None) -> Samples:
        """Has both take turns at each case."""
        by_name = {case.name: case for case in self.cases}

        @contextmanager
        def opened(sampled: bool) -> Iterator[Measure]:
            def one_turn(turn: Turn) -> Mapping[str, float]:
                case = by_name[turn.case]
                texts = [prompts.make(self.prompt_tokens, turn.round, turn.case, each) for each in range(case.requests)]
                asked: dict[str, Any] = {"sampled": sampled, "kv": case.kv, "prompts": texts}
                measured = ask({**asked, "max_tokens": self.max_tokens})
                return {f"{name} {turn.case}": value for name, value in measured.items()}

            yield one_turn

        return measure_in_turns(
            [Contestant(SAMPLED, lambda: opened(True)), Contestant(BARE, lambda: opened(False))],
            cases=list(by_name),
            rounds=self.rounds,
            on_turn=on_turn,
        )

    def results(self, samples: Samples) -> list[Result]:
        """The lines of the report."""
        found = []
        for case in self.cases:
            found += [
                samples.compare(
                    Comparison(
                        name=f"the hooks' share of decoding, {case.name}",
                        measurement=f"hooks_share {case.name}",
                        unit="",
                        better="lower",
                        contestant=SAMPLED,
                        bar=BAR,
                    )
                ),
                samples.compare(
                    Comparison(
                        name=f"a step, {case.name}",
                        measurement=f"step_s {case.name}",
                        unit="s",
                        better="lower",
                        contestant=SAMPLED,
                        against=BARE,
                        quotient="value/against",
                    )
                ),
                samples.compare(
                    Comparison(
                        name=f"the hooks' time, by samples taken, {case.name}",
                        measurement=f"sample_s {case.name}",
                        unit="s",
                        better="lower",
                        contestant=SAMPLED,
                    )
                ),
            ]
        return found
