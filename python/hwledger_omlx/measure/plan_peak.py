"""`bench plan`, peak: the most memory that MLX has while the engine prefills and decodes, against the plan.

The shipped model, and on a GPU one of 1.4 G parameters made on the spot; at three contexts, one and two requests at a
time.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwledger_omlx.measure.bars import Bar, Result
from hwledger_omlx.measure.cache_bench import _GPU_MODEL
from hwledger_omlx.measure.engine_bench import OnTurn
from hwledger_omlx.measure.harness import Turn
from hwledger_omlx.measure.kv_decode import has_gpu
from hwledger_omlx.measure.worker_process import WorkerProcess
from hwledger_omlx.memory.plan import predict
from hwledger_omlx.models import NOTES

_WORKER = Path(__file__).with_name("plan_peak_worker.py")
_TIMEOUT_S = 1800.0
_MAX_TOKENS = 64
_BATCHES = (1, 2)
_SHARE_AT_MOST, _BYTES_AT_MOST = 0.02, 200_000_000
"""A peak may be off its plan by either, whichever is more."""
_CPU_TOKENS = (512, 2048, 4096)
_GPU_TOKENS = {"notes": (512, 2048, 7680), "random": (2048, 8192, 32_768)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What to measure."""

    rounds: int = 3
    """Measured turns of each case, after one to warm up; the largest peak counts."""
    prompt_tokens: Sequence[int] | None = None
    """Of the shipped model; None for 512, 2,048 and 4,096, or 7,680 on a GPU."""

    def run(self, on_turn: OnTurn | None = None) -> tuple[list[Result], list[str]]:
        """Results and notes.

        Raises:
            HarnessError: the worker failed.
        """
        is_gpu = has_gpu()
        results: list[Result] = []
        with tempfile.TemporaryDirectory(prefix="hwledger-bench-") as scratch:
            contexts = tuple(self.prompt_tokens or (_GPU_TOKENS["notes"] if is_gpu else _CPU_TOKENS))
            results += self._of_model("notes", NOTES, contexts, on_turn)
            if is_gpu:
                folder = _GPU_MODEL.write(Path(scratch) / "random")
                results += self._of_model("random", folder, _GPU_TOKENS["random"], on_turn)
        notes = [
            f"Peak: MLX's, of the engine with {_MAX_TOKENS} tokens generated; the plan knows the files, the lengths "
            f"and the device. Off by {_SHARE_AT_MOST:.0%} or {_BYTES_AT_MOST // 1_000_000} MB at most, the larger."
        ]
        if is_gpu:
            notes.append(f"random: {_GPU_MODEL}.")
        return results, notes

    def _of_model(self, name: str, folder: Path, contexts: Sequence[int], on_turn: OnTurn | None) -> Iterator[Result]:
        options = {"model": str(folder), "max_concurrent_requests": max(_BATCHES)}
        cases = [(tokens, requests) for tokens in contexts for requests in _BATCHES]
        with WorkerProcess("engine", f"{_WORKER}:open_engine", options, timeout_s=_TIMEOUT_S) as worker:
            for place, (tokens, requests) in enumerate(cases):
                peaks: list[float] = []
                prompt_tokens = tokens
                for turn in range(1 + self.rounds):
                    if on_turn is not None:
                        done = place * (1 + self.rounds) + turn
                        case = f"{name}, {requests} x {tokens:,}"
                        on_turn("engine", Turn(turn, case, warm_up=turn == 0), done, len(cases) * (1 + self.rounds))
                    said = worker.call(
                        {"prompt_tokens": tokens, "max_tokens": _MAX_TOKENS, "requests": requests, "seed": 100 * turn}
                    )
                    prompt_tokens = said["prompt_tokens"]
                    if turn:
                        peaks.append(float(said["peak_bytes"]))
                yield from _results(name, folder, requests, prompt_tokens, peaks)


def _results(name: str, folder: Path, requests: int, prompt_tokens: int, peaks: Sequence[float]) -> Iterator[Result]:
    planned = predict(folder, prompt_tokens + _MAX_TOKENS, requests, answer_tokens=_MAX_TOKENS)["peak_bytes"]
    where = f"{name}, {requests} x {prompt_tokens:,} tokens"
    peak = max(peaks)
    yield Result(
        name=f"peak memory against the plan, {where}",
        value=peak,
        unit="B",
        against=float(planned),
        ratio=peak / planned,
        spread=(min(peaks), peak),
        rounds=len(peaks),
        better="lower",
        contestant="engine",
        against_contestant="plan",
    )
    yield Result(
        name=f"off the plan, {where}",
        value=abs(peak - planned),
        unit="B",
        bar=Bar.value_at_most(max(_SHARE_AT_MOST * planned, _BYTES_AT_MOST)),
        better="lower",
        contestant="engine",
    )
