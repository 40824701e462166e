"""The ways to hold keys and values that `bench kv` compares, named as resolved policies name them. Measures nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from hwledger_omlx.hooks.layer_caches.dial import PLAIN

BITS = (8, 6, 5, 4, 3, 2)
SCHEMES = ("affine", "rotated", "channel")
RECOMMENDED = "channel"
"""The scheme that is to meet the bars at about 4.5 bits."""
_CHANNEL_GROUP_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Point:
    """Formats of all keys, and of all values."""

    scheme: str
    bits: int
    keys: str
    values: str

    @property
    def side(self) -> str:
        """What is quantized: `K`, `V` or `K+V`; nothing of 16 bit."""
        return "+".join(name for name, held in (("K", self.keys), ("V", self.values)) if held != PLAIN)

    @property
    def name(self) -> str:
        """Such as `affine 4, K+V`."""
        return f"{self.scheme} {self.bits}, {self.side}" if self.side else self.scheme


FULL = Point("16 bit", 16, PLAIN, PLAIN)


def grid(width: int, schemes: Sequence[str] = SCHEMES, bits: Sequence[int] = BITS) -> list[Point]:
    """Each scheme at each number of bits, for keys and values together, for keys alone, and for values alone.

    Of the scheme `channel` values are affine (KIVI), so values alone are none of its points.
    """
    group = next((group for group in (64, 32) if width % group == 0), None)
    found = []
    for scheme in schemes:
        for count in bits:
            match scheme:
                case "affine" if group is not None:
                    keys = values = f"affine:{count}:{group}"
                case "channel" if group is not None:
                    keys, values = f"channel:{count}:{_CHANNEL_GROUP_TOKENS}", f"affine:{count}:{group}"
                case "rotated" if width >= 32 and width & (width - 1) == 0:
                    keys = values = f"rotated:{count}"
                case _:
                    continue
            found += [Point(scheme, count, keys, values), Point(scheme, count, keys, PLAIN)]
            if scheme != "channel":
                found.append(Point(scheme, count, PLAIN, values))
    return found


def point_of(points: Sequence[Point], scheme: str, bits: int) -> Point | None:
    """The one of that scheme for keys and values together."""
    return next((each for each in points if (each.scheme, each.bits, each.side) == (scheme, bits, "K+V")), None)
