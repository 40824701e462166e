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

from hwledger_omlx import _native, probes
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
        self._windows = windows
        self._heldout = {"window": window_tokens, "windows": windows, "separator": _separator(loaded)}
        self._geometry = geometry.measure(loaded.model)
        self._reference: dict[tuple[int, ...], NDArray[np.float32]] = {}
        self._profile: Profile | None = None

    def __call__(self, request: Request) -> Any:
        """One request, as the module says."""
        if "calibrate" in request:
            return self._calibrate(int(request["calibrate"]))
        if "recall" in request:
            return self._recall(self._dial(request["recall"]), request["lengths"], int(request["per_cell"]))
        return self._predict(self._dial(request["predict"]))

    def _dial(self, said: dict[str, str]) -> Dial:
        if "policy" in said:
            profile = None if self._profile is None else json.dumps(self._profile.as_json())
            resolved = _native.KvPolicy.parse(said["policy"]).resolve(self._geometry.text, profile)
            return Dial.parse(resolved, self._geometry.paths)
        sides = CacheDial(Side(said["k"]), Side(said["v"]))
        return Dial(caches={path: sides for layer in self._geometry.paths for path in layer})

    def _predict(self, dial: Dial) -> dict[str, Any]:
        predicted = _Predicted(self._loaded, dial)
        divergence = probes.divergence(self._in_full, predicted.logits, self._loaded.encode, **self._heldout)
        perplexity = probes.perplexity(predicted.log_probs, self._loaded.encode, **self._heldout)
        return {
            "perplexity": perplexity.perplexity,
            "mean_kl": divergence.mean_kl,
            "max_kl": divergence.max_kl,
            "top1": divergence.top1,
            "nbytes": float(predicted.nbytes),
            "policy": dial.policy,
        }

    def _in_full(self, ids: list[int]) -> NDArray[np.float32]:
        key = tuple(ids)
        if key not in self._reference:
            self._reference[key] = self._loaded.logits(ids, self._loaded.caches(Dial(), len(ids)))
        return self._reference[key]

    def _recall(self, dial: Dial, lengths: Sequence[int], per_cell: int) -> dict[str, Any]:
        answering = Answering(self._loaded, dial)
        report = probes.recall(answering, answering.count_tokens, lengths=lengths, per_cell=per_cell)
        depths = sorted({cell.depth for cell in report.cells})
        by_depth = {depth: [cell for cell in report.cells if cell.depth == depth] for depth in depths}
        return {
            "asked": report.asked,
            "right": report.right,
            "by_depth": [
                [depth, sum(cell.right for cell in cells), sum(cell.asked for cell in cells)]
                for depth, cells in by_depth.items()
            ],
        }

    def _calibrate(self, tokens: int) -> dict[str, Any]:
        # Of the held-out text what the other measurements do not read.
        window = self._heldout["window"]
        more = probes.heldout_windows(
            self._loaded.encode, **{**self._heldout, "windows": self._windows + -(-tokens // window)}
        )
        ids = [token for ids in more[self._windows :] for token in ids][:tokens]
        if not ids:
            raise ValueError("the held-out text is too short to calibrate on what the windows leave of it")
        layers = Calibration(self._loaded, ids, window_tokens=window).run()
        self._profile = Profile(_NO_DIGEST, _NO_DIGEST, len(ids), layers)
        return {"tokens": len(ids)}


class _Predicted:
    """Logits at a dial, each window's kept until its perplexity was asked for too."""

    def __init__(self, loaded: LoadedModel, dial: Dial) -> None:
        self._loaded = loaded
        self._dial = dial
        self._kept: dict[tuple[int, ...], NDArray[np.float64]] = {}
        self.nbytes = 0

    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        caches = self._loaded.caches(self._dial, len(ids))
        found = self._loaded.logits(ids, caches)
        self.nbytes += held_nbytes(caches)
        self._kept[tuple(ids)] = probes.log_probs_of(found, ids)
        return found

    def log_probs(self, ids: list[int]) -> NDArray[np.float64]:
        return self._kept[tuple(ids)]


def _separator(loaded: LoadedModel) -> str:
    return SEPARATOR if len(loaded.encode(SEPARATOR)) == 1 else "\n\n"
