"""Measures how much each format of each layer's keys and values changes what a model says, on a given text.

One part of one layer is quantized at a time, in the running caches; everything else is as the model has it. Sensitivity
by layer, and that it differs: KVTuner, arXiv 2502.04420. Of windows nothing is measured: running, they are plain.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_lm.models.cache import CacheList

from hwledger_omlx import probes
from hwledger_omlx.errors import KvTextError, ModelError
from hwledger_omlx.hooks.kv_quant import geometry
from hwledger_omlx.hooks.layer_caches import formats, rotation
from hwledger_omlx.hooks.layer_caches.dial import PLAIN, Dial
from hwledger_omlx.hooks.layer_caches.held import HeldTokens
from hwledger_omlx.hooks.layer_caches.live import LiveKVCache
from hwledger_omlx.kv import profile, wholes
from hwledger_omlx.kv.attention_error import AttentionError, TwinKVCache, watched
from hwledger_omlx.kv.prediction import CHUNK_TOKENS, LoadedModel
from hwledger_omlx.kv.profile import LayerProfile, Measured, Profile

DEFAULT_TOKENS = 4096
"""What few bits do is rare and large: one token in thousands, by nats. More text finds more of it."""
FEWEST_TOKENS = 64
WINDOW_TOKENS = 1024
"""The text is read in contexts of so many tokens."""

_AFFINE_BITS = (8, 6, 4, 3, 2)
_CHANNEL_BITS = (6, 4, 3, 2)
_ROTATED_BITS = (4, 3, 2)
_GROUPS = (64, 32)

OnStep = Callable[[str, int, int], None]
"""Told before each run of the model: what it measures, runs done, runs in all."""


def candidates(part: str, width: int) -> tuple[str, ...]:
    """The formats that are measured on keys (`k`) or values (`v`) of that width: those from which `auto` chooses."""
    group = next((group for group in _GROUPS if width and width % group == 0), None)
    found = [f"affine:{bits}:{group}" for bits in _AFFINE_BITS if group]
    # Only keys have channels that stand out (KIVI, arXiv 2402.02750).
    if part == "k" and width:
        found += [f"channel:{bits}:{_GROUPS[0]}" for bits in _CHANNEL_BITS]
    if rotation.widths_taken(width):
        found += [f"rotated:{bits}" for bits in _ROTATED_BITS]
    return tuple(found)


@dataclass(frozen=True)
class Calibration:
    """What to measure."""

    loaded: LoadedModel
    ids: Sequence[int]
    """Tokens of the text."""
    window_tokens: int = WINDOW_TOKENS
    chunk_tokens: int = CHUNK_TOKENS
    only: Sequence[str] | None = None
    """The formats to measure; None for all `candidates`."""

    def run(self, on_step: OnStep | None = None) -> tuple[LayerProfile | None, ...]:
        """Measures every layer; the model computes in float32 afterwards, where that fits into the memory.

        Raises:
            ModelError: no layer has running keys and values that could be quantized, or they are not attended to by
                mlx-lm's function.
        """
        shapes = json.loads(geometry.measure(self.loaded.model).text)["layers"]
        self.loaded.compute_in_float32()
        plan = list(self._plan(shapes))
        if not plan:
            raise ModelError(f"no layer of {self.loaded.folder.model_id} has a running KV cache that can be quantized")
        found: dict[tuple[int, str, str], _Seen] = {each: _Seen() for each in plan}
        windows = self.windows
        steps = len(windows) * (len(plan) + 1)
        for number, ids in enumerate(windows):
            done = number * (len(plan) + 1)
            _tell(on_step, "16 bit", done, steps)
            reference = self.loaded.logits(ids, self.loaded.caches(Dial(), len(ids)), self.chunk_tokens)
            for step, (layer, part, name) in enumerate(plan, start=1):
                _tell(on_step, f"layer {layer} {part.upper()} {name}", done + step, steps)
                caches = self.loaded.caches(Dial(), len(ids))
                caches[layer] = _with_twins(caches[layer], part, name, shapes[layer]["caches"], len(ids))
                with watched(self.loaded.model) as error:
                    logits = self.loaded.logits(ids, caches, self.chunk_tokens)
                    found[layer, part, name].add(probes.compare(reference, logits), error)
        return tuple(self._measured(found, layer, shape) for layer, shape in enumerate(shapes))

    @property
    def windows(self) -> list[list[int]]:
        """The text in contexts."""
        windows = [list(self.ids[at : at + self.window_tokens]) for at in range(0, len(self.ids), self.window_tokens)]
        # A short rest has next to nothing behind it to attend to.
        return [ids for ids in windows if len(ids) >= min(FEWEST_TOKENS, len(windows[0]))]

    def profile(self, text: str, on_step: OnStep | None = None) -> Profile:
        """The layers' profile and the policies', of a text with that digest in hexadecimal.

        Raises:
            ModelError: as `run`.
        """
        shape = geometry.measure(self.loaded.model)
        layers = self.run(on_step)
        found = Profile(profile.fingerprint(self.loaded.folder.path), text, len(self.ids), layers)
        return wholes.measured(self.loaded, self.windows, found, shape, self.chunk_tokens, on_step)

    def _plan(self, shapes: Sequence[Any]) -> Iterator[tuple[int, str, str]]:
        for layer, shape in enumerate(shapes):
            held = [cache for cache in shape["caches"] if cache["kind"] == "sequence"]
            for part in ("k", "v"):
                fitting = [candidates(part, cache[part]["width"]) for cache in held]
                for name in fitting[0] if fitting else ():
                    wanted = self.only is None or name in self.only
                    if wanted and all(name in names for names in fitting):
                        yield layer, part, name

    def _measured(self, found: dict[tuple[int, str, str], "_Seen"], layer: int, shape: Any) -> LayerProfile | None:
        if all(cache["kind"] != "sequence" for cache in shape["caches"]):
            return None
        parts = {
            part: pooled({name: seen.measured() for (at, of, name), seen in found.items() if (at, of) == (layer, part)})
            for part in ("k", "v")
        }
        return LayerProfile(**parts)


def pooled(measured: Mapping[str, Measured]) -> dict[str, Measured]:
    """The same, with no format of a part better than all of them together say of an error as large as its own.

    For small errors the KL grows with the square of the attention's error, and one factor goes for all formats. What a
    few thousand tokens say of a fine format alone is what became of the one or two tokens that it happened to change.
    """
    squares = sum(each.error**2 for each in measured.values())
    factor = sum(each.kl for each in measured.values()) / squares if squares else 0.0
    return {name: Measured(max(each.kl, factor * each.error**2), each.error) for name, each in measured.items()}


@dataclass
class _Seen:
    divergences: list[probes.Divergence] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def add(self, divergence: probes.Divergence, error: AttentionError) -> None:
        if not error.is_watched:
            raise ModelError("this model attends by a function of its own, so what quantizing does cannot be measured")
        self.divergences.append(divergence)
        self.errors.append(error.value)

    def measured(self) -> Measured:
        return Measured(probes.combined(self.divergences).mean_kl, sum(self.errors) / len(self.errors))


def calibrate(
    model: str | Path,
    text: str,
    *,
    tokens: int = DEFAULT_TOKENS,
    only: Sequence[str] | None = None,
    on_step: OnStep | None = None,
) -> Profile:
    """The profile of `model` on the first `tokens` tokens of `text`.

    Args:
        model: folder or Hugging Face id.
        text: of the kind that the model will be given.
        tokens: how many of it to measure on, at most.
        only: formats to measure; None for all that the model can take.
        on_step: told of the progress.

    Raises:
        ModelError: no such model, or one whose KV cannot be quantized.
        KvTextError: the text has too few tokens.
    """
    loaded = LoadedModel.load(model)
    ids = loaded.encode(text)[:tokens]
    if len(ids) < FEWEST_TOKENS:
        raise KvTextError(
            f"the text has {len(ids)} tokens, and at least {FEWEST_TOKENS} are needed (a few thousand are good)"
        )
    return Calibration(loaded, ids, only=only).profile(hashlib.sha256(text.encode()).hexdigest(), on_step)


def _with_twins(cache: Any, part: str, name: str, shapes: Sequence[Any], tokens: int) -> Any:
    """The layer's caches, those of all tokens with one part in that format; held in the type that the model has."""
    leaves = iter(shapes)

    def with_twins(cache: Any) -> Any:
        if isinstance(cache, CacheList):
            return CacheList(*(with_twins(each) for each in cache.caches))
        shape = next(leaves)
        if not isinstance(cache, LiveKVCache):
            return cache
        names = {"k": PLAIN, "v": PLAIN, part: name}
        keys, values = (HeldTokens(formats.parse(names[each]), reserve_tokens=tokens) for each in ("k", "v"))
        return TwinKVCache(keys, values, shape["element"])

    return with_twins(cache)


def _tell(on_step: OnStep | None, what: str, done: int, steps: int) -> None:
    if on_step is not None:
        on_step(what, done, steps)
