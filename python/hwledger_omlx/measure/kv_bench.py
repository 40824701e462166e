"""`bench kv`: what fewer bits of keys and values cost and save, part by part, in one run and one report.

Joins what `kv_quality.py`, `kv_codecs.py` and `kv_decode.py` measure. Measures nothing itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwledger_omlx.engine import model_folder
from hwledger_omlx.errors import HarnessError
from hwledger_omlx.measure.bars import Result
from hwledger_omlx.measure.engine_bench import OnTurn
from hwledger_omlx.measure.environment import environment
from hwledger_omlx.measure.kv_codecs import Codecs
from hwledger_omlx.measure.kv_decode import Decode, has_gpu
from hwledger_omlx.measure.kv_points import grid
from hwledger_omlx.measure.kv_quality import Measurement, Quality, head_width
from hwledger_omlx.measure.kv_table import KvReport
from hwledger_omlx.models import NOTES

PARTS = ("quality", "codecs", "decode")
_QUICK_BITS = (8, 4)
_WINDOW_TOKENS = 1024
_GPU_CONTEXTS, _CPU_CONTEXTS = 16, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class KvBench:
    """What to measure."""

    parts: Sequence[str] = PARTS
    """Of `PARTS`."""
    model: str | Path | None = None
    """For quality and decode; None for the shipped one, and for decode on a GPU one made on the spot."""
    rounds: int = 5
    """Of the parts codecs and decode; quality is deterministic."""
    quick: bool = False
    """Fewer bits, less text, fewer questions: to see that everything works. The bars are the same."""
    windows: int | None = None
    """Contexts of 1,024 tokens of held-out text that quality reads, and as many others that `auto` is calibrated on;
    None for 16, or 4 on a CPU. What few bits do is rare and large, so little text says little of it."""
    recall_per_cell: int | None = None
    """Questions of quality at each length and depth; None for 16, or 4 on a CPU."""

    def run(self, on_turn: OnTurn | None = None) -> KvReport:
        """Measures, and returns the report.

        Raises:
            ModelError: no such model.
            HarnessError: impossible options, or a contestant failed.
        """
        self._check()
        around = environment()
        results: list[Result] = []
        notes: list[str] = []
        points: Sequence[Measurement] = ()
        if "quality" in self.parts:
            found = self.quality.run(on_turn)
            results += found.results
            notes += found.notes
            points = found.measurements
        for part, measured in (("codecs", self.codecs), ("decode", self.decode)):
            if part in self.parts:
                more, said = measured.run(on_turn)
                results += more
                notes += said
        return KvReport("bench kv", "keys and values at fewer bits", results, around, notes, points)

    @property
    def quality(self) -> Quality:
        """Its part `quality`."""
        model = NOTES if self.model is None else self.model
        if not self.quick:
            usual = _CPU_CONTEXTS if not has_gpu() else _GPU_CONTEXTS
            windows = self.windows or usual
            return Quality(
                model=model,
                windows=windows,
                recall_per_cell=self.recall_per_cell or usual,
                calibration_tokens=windows * _WINDOW_TOKENS,
            )
        width = head_width(model_folder.locate(model))
        return Quality(
            model=model,
            windows=1,
            points=[each for each in grid(width, bits=_QUICK_BITS) if each.side == "K+V"],
            recall_lengths=(512,),
            recall_per_cell=1,
            calibration_tokens=256,
        )

    @property
    def codecs(self) -> Codecs:
        """Its part `codecs`."""
        return Codecs(rounds=2 if self.quick else self.rounds)

    @property
    def decode(self) -> Decode:
        """Its part `decode`."""
        return Decode(model=self.model, rounds=2 if self.quick else self.rounds)

    def _check(self) -> None:
        if not self.parts or (unknown := [part for part in self.parts if part not in PARTS]):
            what = f"no part {', '.join(unknown)}" if self.parts else "no part named"
            raise HarnessError(f"{what}; there are: {', '.join(PARTS)}")
        if any(given is not None and given < 1 for given in (self.rounds, self.windows, self.recall_per_cell)):
            raise HarnessError("give at least 1 round, 1 window and 1 question")
