"""The process of `bench kv` that holds a model and says what quantizing its keys and values does to it.

In: `{"predict": DIAL}`, `{"recall": DIAL, "lengths", "per_cell"}` or `{"calibrate": TOKENS}`; a DIAL is
`{"k": FORMAT, "v": FORMAT}` for all layers alike, or `{"policy": TEXT}`, solved with what was calibrated before.
Out: what was measured.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwledger_omlx import probes
from hwledger_omlx._native import KvPolicy
from hwledger_omlx.hooks.kv_quant import geometry
from hwledger_omlx.hooks.layer_caches.dial import CacheDial, Dial, Side
from hwledger_omlx.kv.calibration import Calibration
from hwledger_omlx.kv.prediction import LoadedModel, held_nbytes
from hwledger_omlx.kv.profile import Profile
from hwledger_omlx.measure.kv_answering import Answering
from hwledger_omlx.probes.quality import SEPARATOR

_NO_DIGEST = "00"
Request = dict[str, Any]


@contextmanager
def open_model(options: dict[str, Any]) -> Iterator[Callable[[Request], Any]]:
    """Options: `model` (folder), `windows`, `window_tokens`."""
    yield QualityWorker(LoadedModel.load(options["model"]), options["windows"], options["window_tokens"])


class QualityWorker:
    """A loaded model, its 16-bit predictions, and its profile once it was calibrated."""

    def __init__(self, loaded: LoadedModel, windows: int, window_tokens: int) -> None:
        self._loaded = loaded
        self._window_tokens = window_tokens
        self._windows = self._heldout(windows)
        self._geometry = geometry.measure(loaded.model)
        self._reference: list[NDArray[np.float32]] = []
        self._profile: Profile | None = None

    def __call__(self, request: Request) -> Any:
        """One request, as the module says."""
        if "calibrate" in request:
            return self._calibrate(int(request["calibrate"]))
        if "recall" in request:
            return self._recall(self._dial(request["recall"]), request["lengths"], int(request["per_cell"]))
        return self._predict(self._dial(request["predict"]))

    def _heldout(self, windows: int) -> list[list[int]]:
        # Only models of this vocabulary saw the separator in training.
        separator = SEPARATOR if len(self._loaded.encode(SEPARATOR)) == 1 else "\n\n"
        return probes.heldout_windows(
            self._loaded.encode, window=self._window_tokens, windows=windows, separator=separator
        )

    def _dial(self, said: dict[str, str]) -> Dial:
        if "policy" in said:
            profile = None if self._profile is None else json.dumps(self._profile.as_json())
            return Dial.parse(
                KvPolicy.parse(said["policy"]).resolve(self._geometry.text, profile), self._geometry.paths
            )
        sides = CacheDial(Side(said["k"]), Side(said["v"]))
        return Dial(caches={path: sides for layer in self._geometry.paths for path in layer})

    def _predict(self, dial: Dial) -> dict[str, Any]:
        if not self._reference:
            plain = (self._loaded.caches(Dial(), len(ids)) for ids in self._windows)
            self._reference = [
                self._loaded.logits(ids, caches) for ids, caches in zip(self._windows, plain, strict=True)
            ]
        divergences, nats, nbytes = [], 0.0, 0
        for ids, reference in zip(self._windows, self._reference, strict=True):
            caches = self._loaded.caches(dial, len(ids))
            logits = self._loaded.logits(ids, caches)
            divergences.append(probes.compare(reference, logits))
            nats -= float(probes.log_probs_of(logits, ids).sum())
            nbytes += held_nbytes(caches)
        divergence = probes.combined(divergences)
        perplexity = probes.Perplexity(sum(len(ids) - 1 for ids in self._windows), nats)
        return {
            "perplexity": perplexity.perplexity,
            "mean_kl": divergence.mean_kl,
            "max_kl": divergence.max_kl,
            "top1": divergence.top1,
            "nbytes": float(nbytes),
            "policy": dial.policy,
        }

    def _recall(self, dial: Dial, lengths: Sequence[int], per_cell: int) -> dict[str, Any]:
        answering = Answering(self._loaded, dial)
        report = probes.recall(answering, answering.count_tokens, lengths=lengths, per_cell=per_cell)
        by_depth = []
        for depth in sorted({cell.depth for cell in report.cells}):
            cells = [cell for cell in report.cells if cell.depth == depth]
            by_depth.append([depth, sum(cell.right for cell in cells), sum(cell.asked for cell in cells)])
        return {"asked": report.asked, "right": report.right, "by_depth": by_depth}

    def _calibrate(self, tokens: int) -> dict[str, Any]:
        # Of the held-out text what the other measurements do not read.
        more = self._heldout(len(self._windows) + -(-tokens // self._window_tokens))[len(self._windows) :]
        ids = [token for window in more for token in window][:tokens]
        if not ids:
            raise ValueError("the held-out text is too short to calibrate on what the windows leave of it")
        # Another copy: calibration has it compute in float32.
        apart = LoadedModel.load(self._loaded.folder.path)
        self._profile = Calibration(apart, ids, window_tokens=self._window_tokens).profile(_NO_DIGEST)
        return {"tokens": len(ids)}
