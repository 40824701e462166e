"""A policy as it falls out for one model: each layer's formats, their bits and bytes, and what they cost.

Counts bytes as the running caches allocate them; draws nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hwledger_omlx.cache.sizes import size_text
from hwledger_omlx.hooks.layer_caches import formats
from hwledger_omlx.hooks.layer_caches.arrays import ArraySpec
from hwledger_omlx.hooks.layer_caches.dial import CacheDial, Dial, Path, Side
from hwledger_omlx.kv.profile import Measured, Profile

DEFAULT_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class HeldPart:
    """The keys, or the values, of one layer."""

    format: str
    """Of the running cache."""
    rest: str
    """In the store."""
    bits: float
    """Of a number, with its share of scales, biases and norms."""
    nbytes: int
    """Of the running cache, at the view's tokens."""
    plain_nbytes: int
    measured: Measured | None
    """None where it was not measured; nothing is lost in 16 bit."""


@dataclass(frozen=True, slots=True)
class HeldLayer:
    """One layer; None for a part that it has not, or that no policy is about."""

    layer: int
    k: HeldPart | None
    v: HeldPart | None

    @property
    def parts(self) -> tuple[HeldPart, ...]:
        """Those that there are."""
        return tuple(part for part in (self.k, self.v) if part is not None)

    @property
    def nbytes(self) -> int:
        """Of both."""
        return sum(part.nbytes for part in self.parts)

    @property
    def kl(self) -> float | None:
        """What both were measured to cost, in nats; None where one was not measured."""
        return _sum([part.measured for part in self.parts])

    @property
    def error(self) -> float | None:
        """The larger of both relative errors of the attention output."""
        measured = [part.measured for part in self.parts]
        found = [each.error for each in measured if each is not None]
        return max(found) if found and len(found) == len(measured) else None


@dataclass(frozen=True, slots=True)
class DialView:
    """All layers."""

    model: str
    """What it is called."""
    policy: str
    """Canonical text, layer by layer where it was solved for."""
    tokens: int
    """At which bytes are counted."""
    layers: tuple[HeldLayer, ...]

    @property
    def nbytes(self) -> int:
        """Of the running caches of one request."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def plain_nbytes(self) -> int:
        """Of the same in 16 bit."""
        return sum(part.plain_nbytes for layer in self.layers for part in layer.parts)

    @property
    def share(self) -> float:
        """Of the bytes in 16 bit."""
        return self.nbytes / self.plain_nbytes if self.plain_nbytes else 1.0

    @property
    def predicted_kl(self) -> float | None:
        """The sum of what each part was measured to cost, in nats; None where one was not measured."""
        return _sum([part.measured for layer in self.layers for part in layer.parts])

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        totals = {"nbytes": self.nbytes, "plain_nbytes": self.plain_nbytes, "predicted_kl": self.predicted_kl}
        return {**asdict(self), **totals}


def view(
    model: str,
    resolved: str,
    geometry: str,
    paths: Sequence[Sequence[Path]],
    profile: Profile | None = None,
    tokens: int = DEFAULT_TOKENS,
) -> DialView:
    """The dial of a resolved policy.

    Args:
        model: what it is called.
        resolved: JSON of `KvPolicy.resolve`.
        geometry: that it was resolved for, as `kv_quant.geometry` has it.
        paths: likewise.
        profile: what was measured of the model.
        tokens: at which bytes are counted.
    """
    dial = Dial.parse(resolved, paths)
    shapes = json.loads(geometry)["layers"]
    layers = []
    for number, (places, shape) in enumerate(zip(paths, shapes, strict=True)):
        measured = None if profile is None else profile.layers[number]
        parts = {}
        for part in ("k", "v"):
            held = [
                _held(dial, dial.of(path), cache, part, measured.of(part) if measured is not None else {}, tokens)
                for path, cache in zip(places, shape["caches"], strict=True)
                if cache["kind"] != "state"
            ]
            parts[part] = _joined(held)
        layers.append(HeldLayer(number, **parts))
    return DialView(model, dial.policy, tokens, tuple(layers))


def _held(
    dial: Dial, formats_of: CacheDial, cache: Any, part: str, measured: Mapping[str, Measured], tokens: int
) -> HeldPart | None:
    heads, width = cache[part]["heads"], cache[part]["width"]
    if not heads * width:
        return None
    side: Side = formats_of.keys if part == "k" else formats_of.values
    form = formats.parse(side.live)
    like = ArraySpec((1, heads, 0, width), cache["element"])
    held_tokens = min(tokens, cache.get("window_tokens") or tokens)
    is_plain = formats.is_plain(form)
    packed = 0 if is_plain else max(0, held_tokens - dial.first_tokens - dial.recent_tokens)
    packed -= packed % form.run_tokens
    plain_nbytes = _nbytes(formats.PLAIN, like, held_tokens)
    nbytes = _nbytes(form, like, packed) + _nbytes(formats.PLAIN, like, held_tokens - packed)
    whole_runs = 4 * form.run_tokens
    bits = 8 * _nbytes(form, like, whole_runs) / (whole_runs * heads * width)
    return HeldPart(
        form.name,
        side.rest,
        bits,
        nbytes,
        plain_nbytes,
        Measured(0.0, 0.0) if is_plain else measured.get(form.name),
    )


def _joined(held: Sequence[HeldPart | None]) -> HeldPart | None:
    """Caches of one layer have one format; their bytes add up."""
    parts = [part for part in held if part is not None]
    if not parts:
        return None
    first = parts[0]
    nbytes, plain_nbytes = sum(part.nbytes for part in parts), sum(part.plain_nbytes for part in parts)
    return HeldPart(first.format, first.rest, first.bits, nbytes, plain_nbytes, first.measured)


def _nbytes(form: formats.Format, like: ArraySpec, tokens: int) -> int:
    return sum(spec.nbytes for spec in form.specs(like, tokens))


def headline(view: DialView) -> str:
    """What it comes to, in a sentence."""
    size = f"{size_text(view.nbytes)} for {view.tokens:,} tokens"
    said = f"{view.model} at {view.policy}: {size}, {view.share:.1%} of 16 bit"
    return said if view.predicted_kl is None else f"{said}, KL {view.predicted_kl:.5f} nats predicted"


def scheme_of(name: str) -> str:
    """`affine`, `channel` or `rotated`; `16` where nothing is lost."""
    scheme = name.partition(":")[0]
    return "16" if scheme == "lossless" else scheme


def _sum(measured: Sequence[Measured | None]) -> float | None:
    found = [each.kl for each in measured if each is not None]
    return sum(found) if len(found) == len(measured) else None
