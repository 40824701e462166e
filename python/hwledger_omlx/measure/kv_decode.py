"""`bench kv`, decode: speed and memory with live caches at 8 and 4 bits against 16, at a short and a long context.

On a GPU a model of 1.4 G parameters made on the spot; on a CPU the shipped one at short contexts, for the memory.
"""

import importlib
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
from hwledger_omlx.measure.harness import Contestant, Measure, Samples, Turn, measure_in_turns
from hwledger_omlx.measure.worker_process import WorkerProcess
from hwledger_omlx.models import NOTES

_WORKER = Path(__file__).with_name("kv_decode_worker.py")
_TIMEOUT_S = 1800.0
_FULL = "16 bit"
HELD: Mapping[str, tuple[str, str]] = {
    _FULL: ("16", "16"),
    "affine 8": ("affine:8:64", "affine:8:64"),
    "affine 4": ("affine:4:64", "affine:4:64"),
    "channel 4": ("channel:4:64", "affine:4:64"),
}
"""Formats of keys and values, by what the contestant is called."""
_GPU_TOKENS, _CPU_TOKENS = (2048, 32_768), (512, 1024)
_GPU_NEW_TOKENS, _CPU_NEW_TOKENS = 128, 16
_GPU_CHUNK_TOKENS, _CPU_CHUNK_TOKENS = 2048, 512
_PREDICTION_BAR = Bar.value_at_most(0.02)
_PEAK_BAR = Bar.ratio_at_most(1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode:
    """What to measure."""

    model: str | Path | None = None
    """None for the one made on the spot, or the shipped one on a CPU."""
    rounds: int = 5
    prompt_tokens: Sequence[int] | None = None
    """Contexts; None for 2,048 and 32,768, or 512 and 1,024 on a CPU."""

    def run(self, on_turn: OnTurn | None = None) -> tuple[list[Result], list[str]]:
        """Results and notes.

        Raises:
            ModelError: no such model.
            HarnessError: the worker failed, or the contexts are longer than the model's.
        """
        is_gpu = has_gpu()
        with tempfile.TemporaryDirectory(prefix="hwledger-bench-") as scratch:
            if on_turn is not None:
                on_turn("making the model", Turn(0, "", warm_up=False), 0, 1)
            folder = self._folder(Path(scratch), is_gpu=is_gpu)
            contexts = tuple(self.prompt_tokens or (_GPU_TOKENS if is_gpu else _CPU_TOKENS))
            if folder.context_tokens is not None and max(contexts) >= folder.context_tokens:
                raise HarnessError(f"{folder.model_id} has a context of {folder.context_tokens} tokens")
            chunk_tokens = _GPU_CHUNK_TOKENS if is_gpu else _CPU_CHUNK_TOKENS
            options = {"model": str(folder.path), "chunk_tokens": chunk_tokens}
            with WorkerProcess("decode", f"{_WORKER}:open_model", options, timeout_s=_TIMEOUT_S) as worker:
                results = self.measure(worker.call, contexts, on_turn, is_gpu=is_gpu)
        made = str(_GPU_MODEL) if is_gpu and self.model is None else folder.model_id
        return results, _notes(made, chunk_tokens, is_gpu=is_gpu)

    def _folder(self, scratch: Path, *, is_gpu: bool) -> model_folder.ModelFolder:
        if self.model is None and is_gpu:
            return model_folder.locate(_GPU_MODEL.write(scratch / "random"))
        return model_folder.locate(self.model or NOTES)

    def measure(
        self, ask: Ask, contexts: Sequence[int], on_turn: OnTurn | None = None, *, is_gpu: bool
    ) -> list[Result]:
        """Has the contestants take turns at each context."""
        new_tokens = _GPU_NEW_TOKENS if is_gpu else _CPU_NEW_TOKENS
        samples = measure_in_turns(
            [Contestant(name, _opened(ask, formats, new_tokens)) for name, formats in HELD.items()],
            cases=[str(tokens) for tokens in contexts],
            rounds=self.rounds,
            on_turn=on_turn,
        )
        # At a short context what is decoded for the moment is more than what is saved.
        return [
            each
            for tokens in contexts
            for each in _results(samples, tokens, peak_bar=_PEAK_BAR if is_gpu and tokens == max(contexts) else None)
        ]


def has_gpu() -> bool:
    """Whether MLX computes on one."""
    mx = importlib.import_module("mlx.core")
    return bool(mx.default_device() == mx.Device(mx.gpu))


def _opened(ask: Ask, formats: tuple[str, str], new_tokens: int) -> Any:
    keys, values = formats

    def one_turn(turn: Turn) -> Mapping[str, float]:
        request = {"k": keys, "v": values, "prompt_tokens": int(turn.case), "new_tokens": new_tokens}
        return {f"{name} {turn.case}": value for name, value in ask({**request, "seed": turn.round}).items()}

    @contextmanager
    def opened() -> Iterator[Measure]:
        yield one_turn

    return opened


def _results(samples: Samples, tokens: int, *, peak_bar: Bar | None) -> list[Result]:
    found = []
    for name in HELD:
        against = None if name == _FULL else _FULL
        label = f"{name}, {tokens:,} tokens"

        def line(what: str, measurement: str, unit: str, better: str, bar: Bar | None = None) -> Result:
            quotient = "value/against" if better == "lower" else None
            return samples.compare(
                Comparison(
                    name=f"{what}, {label}",  # noqa: B023
                    measurement=f"{measurement} {tokens}",
                    unit=unit,
                    better=better,  # type: ignore[arg-type]
                    contestant=name,  # noqa: B023
                    against=against,  # noqa: B023
                    quotient=quotient,  # type: ignore[arg-type]
                    bar=bar if against else None,  # noqa: B023
                )
            )

        found += [
            line("decode", "decode_tokens_per_s", "tokens/s", "higher"),
            line("prefill", "prefill_tokens_per_s", "tokens/s", "higher"),
            line("peak memory of prefill", "prefill_peak_bytes", "B", "lower", peak_bar),
            line("memory of the KV", "kv_bytes", "B", "lower"),
        ]
        pairs = zip(samples.of(name, f"kv_bytes {tokens}"), samples.of(name, f"predicted_bytes {tokens}"), strict=True)
        found.append(
            Result(
                name=f"memory of the KV, off its prediction, {label}",
                value=max(abs(held / predicted - 1) for held, predicted in pairs),
                unit="",
                better="lower",
                bar=_PREDICTION_BAR,
                contestant=name,
            )
        )
    return found


def _notes(model: str, chunk_tokens: int, *, is_gpu: bool) -> list[str]:
    notes = [
        f"Decode: {model}; mlx-lm's model on our caches without a scheduler, prefill in chunks of {chunk_tokens:,}. "
        "Memory is what MLX's active memory grows by; its prediction comes from the formats and the allocator's pages "
        "alone."
    ]
    if not is_gpu:
        notes.append(
            "Decode was measured on a CPU, at short contexts: keys are decoded there at each step, so the speed says "
            "nothing of a GPU."
        )
    return notes
