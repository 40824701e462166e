"""Sizes in bytes as people write and read them: "64GiB", "1.5 TB"."""

import re

from hwledger_omlx.errors import StoreConfigError

Size = int | str
"""Bytes, or a text such as "64GiB", "500 MB" or "4096"."""

_UNITS = {"": 1, "b": 1}
_UNITS |= {letter.lower() + "ib": 1 << 10 * power for power, letter in enumerate("KMGTP", 1)}
_UNITS |= {letter.lower() + "b": 1000**power for power, letter in enumerate("KMGTP", 1)}
_BINARY = ("KiB", "MiB", "GiB", "TiB", "PiB")
_WRITTEN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)
_LARGEST = (1 << 63) - 1


def parse_size(name: str, size: object) -> int:
    """Bytes of `size`, a number or a text with a unit: KiB, MiB, ... count by 1024, kB, MB, ... by 1000.

    Args:
        name: what it is the size of, for the message.
        size: what was given.

    Raises:
        StoreConfigError: it is no size.
    """
    count: int | None = None
    if isinstance(size, int) and not isinstance(size, bool):
        count = size
    elif isinstance(size, str) and (written := _WRITTEN.fullmatch(size)) and written[2].lower() in _UNITS:
        count = round(float(written[1]) * _UNITS[written[2].lower()])
    if count is None or not 0 <= count <= _LARGEST:
        raise StoreConfigError(f"{name} must be a number of bytes or a text such as '64GiB', not {size!r}")
    return count


def size_text(count: float) -> str:
    """Bytes with three digits and a unit: 0 B, 1.5 KiB, 64.0 GiB."""
    if abs(count) < 1000:
        return f"{count:.0f} B"
    power = 0
    # What would round to 1000 of a unit is written in the next one.
    while abs(count) >= 999.5 and power < len(_BINARY):
        count, power = count / 1024, power + 1
    return f"{count:.{0 if abs(count) >= 99.95 else 1}f} {_BINARY[power - 1]}"
