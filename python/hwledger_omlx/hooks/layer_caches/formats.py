"""How the keys or the values of a layer are held: plain, or at fewer bits. Knows arrays only.

A format turns `[batch, heads, tokens, width]` into its *components*, arrays that grow along one axis as tokens come,
and back. Only whole runs of `run_tokens` tokens can be encoded; a token's components never change with what follows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx

from hwledger_omlx.hooks.layer_caches import rotation
from hwledger_omlx.hooks.layer_caches.arrays import ArraySpec, dtype_name

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Component:
    """One of the arrays that a format consists of."""

    name: str
    axis: int
    """The one along which tokens follow each other."""
    slots: int
    tokens: int
    """`slots` entries of the axis belong to `tokens` tokens."""

    def slot(self, token: int) -> int:
        """Where a token begins that is the first of a run."""
        return token * self.slots // self.tokens


class Format(Protocol):
    """A way to hold keys or values."""

    @property
    def run_tokens(self) -> int:
        """Tokens are encoded in runs of so many."""

    @property
    def name(self) -> str:
        """As policies write it."""

    @property
    def components(self) -> tuple[Component, ...]:
        """What it consists of."""

    def specs(self, like: ArraySpec, tokens: int) -> list[ArraySpec]:
        """The components of so many tokens, whole runs, of arrays like `[batch, heads, any, width]`."""

    def encode(self, dense: Any) -> list[Any]:
        """The components of `[batch, heads, tokens, width]`."""

    def decode(self, components: Sequence[Any], like: ArraySpec) -> Any:
        """`[batch, heads, tokens, width]` of these components, in the dtype of `like`."""


@dataclass(frozen=True, slots=True)
class Plain:
    """As the model has it."""

    @property
    def run_tokens(self) -> int:  # noqa: D102
        return 1

    @property
    def name(self) -> str:  # noqa: D102
        return "16"

    @property
    def components(self) -> tuple[Component, ...]:  # noqa: D102
        return (Component("", 2, 1, 1),)

    def specs(self, like: ArraySpec, tokens: int) -> list[ArraySpec]:  # noqa: D102
        return [_shaped(like, tokens)]

    def encode(self, dense: Any) -> list[Any]:  # noqa: D102
        return [dense]

    def decode(self, components: Sequence[Any], like: ArraySpec) -> Any:  # noqa: D102
        return components[0]


@dataclass(frozen=True, slots=True)
class Affine:
    """MLX's own: a scale and a bias for each `group` numbers of a token, as `mx.quantize` makes them."""

    bits: int
    group: int

    @property
    def run_tokens(self) -> int:  # noqa: D102
        return 1

    @property
    def name(self) -> str:  # noqa: D102
        return f"affine:{self.bits}:{self.group}"

    @property
    def components(self) -> tuple[Component, ...]:  # noqa: D102
        return tuple(Component(name, 2, 1, 1) for name in ("codes", "scales", "biases"))

    def specs(self, like: ArraySpec, tokens: int) -> list[ArraySpec]:  # noqa: D102
        *outer, _, width = like.shape
        steps = ArraySpec((*outer, tokens, width // self.group), like.dtype)
        return [ArraySpec((*outer, tokens, width * self.bits // 32), "uint32"), steps, steps]

    def encode(self, dense: Any) -> list[Any]:  # noqa: D102
        return list(mx.quantize(dense, group_size=self.group, bits=self.bits))

    def decode(self, components: Sequence[Any], like: ArraySpec) -> Any:  # noqa: D102
        codes, scales, biases = components
        return mx.dequantize(codes, scales, biases, group_size=self.group, bits=self.bits)


@dataclass(frozen=True, slots=True)
class Channel:
    """A scale and a bias for each number of a token over `group` tokens (KIVI, arXiv 2402.02750).

    Held as `mx.quantize` makes them of the transposed array, so that MLX's kernels take it.
    """

    bits: int
    group: int

    @property
    def run_tokens(self) -> int:  # noqa: D102
        return self.group

    @property
    def name(self) -> str:  # noqa: D102
        return f"channel:{self.bits}:{self.group}"

    @property
    def components(self) -> tuple[Component, ...]:  # noqa: D102
        steps = (Component(name, 3, 1, self.group) for name in ("scales", "biases"))
        return (Component("codes", 3, self.bits, 32), *steps)

    def specs(self, like: ArraySpec, tokens: int) -> list[ArraySpec]:  # noqa: D102
        *outer, _, width = like.shape
        steps = ArraySpec((*outer, width, tokens // self.group), like.dtype)
        return [ArraySpec((*outer, width, tokens * self.bits // 32), "uint32"), steps, steps]

    def encode(self, dense: Any) -> list[Any]:  # noqa: D102
        return list(mx.quantize(dense.swapaxes(-1, -2), group_size=self.group, bits=self.bits))

    def decode(self, components: Sequence[Any], like: ArraySpec) -> Any:  # noqa: D102
        codes, scales, biases = components
        return mx.dequantize(codes, scales, biases, group_size=self.group, bits=self.bits).swapaxes(-1, -2)


@dataclass(frozen=True, slots=True)
class Rotated:
    """Each token's vector rotated at random, its norm, and an index into a codebook for each number (TurboQuant)."""

    bits: float

    @property
    def run_tokens(self) -> int:  # noqa: D102
        return 1

    @property
    def name(self) -> str:  # noqa: D102
        return f"rotated:{self.bits:g}"

    @property
    def components(self) -> tuple[Component, ...]:  # noqa: D102
        return tuple(Component(name, 2, 1, 1) for name in ("codes", "norms"))

    def specs(self, like: ArraySpec, tokens: int) -> list[ArraySpec]:  # noqa: D102
        *outer, _, width = like.shape
        words = rotation.code_words(width, self.bits)
        return [ArraySpec((*outer, tokens, words), "uint32"), ArraySpec((*outer, tokens, 1), "float16")]

    def encode(self, dense: Any) -> list[Any]:  # noqa: D102
        return list(rotation.encode(dense, self.bits))

    def decode(self, components: Sequence[Any], like: ArraySpec) -> Any:  # noqa: D102
        codes, norms = components
        return rotation.decode(codes, norms, like.shape[-1], self.bits).astype(getattr(mx, like.dtype))


PLAIN = Plain()


def is_plain(form: Format) -> bool:
    """Whether nothing is encoded."""
    return isinstance(form, Plain)


def parse(name: str) -> Format:
    """The format of that name, as a resolved policy has it.

    Raises:
        ValueError: there is none.
    """
    scheme, *numbers = name.split(":")
    match scheme, numbers:
        case (("16" | "lossless"), []):
            return PLAIN
        case "affine", [bits, group]:
            return Affine(int(bits), int(group))
        case "channel", [bits, group]:
            return Channel(int(bits), int(group))
        case "rotated", [bits]:
            return Rotated(float(bits))
    raise ValueError(f"no format of running KV is called {name!r}")


def spec_of(dense: Any) -> ArraySpec:
    """What `specs` and `decode` want to know of `[batch, heads, tokens, width]`."""
    return ArraySpec(tuple(dense.shape), dtype_name(dense.dtype))


def _shaped(like: ArraySpec, tokens: int) -> ArraySpec:
    *outer, _, width = like.shape
    return ArraySpec((*outer, tokens, width), like.dtype)
