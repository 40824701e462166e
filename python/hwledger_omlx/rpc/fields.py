"""What messages are made of: of which kind a parameter or a result is, and whether a call has its parameters right."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hwledger_omlx.errors import RequestError

REQUIRED: Any = object()
"""In place of a default."""


class InvalidParamsError(RequestError):
    """The method does not take such parameters."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value may be, and how that is said."""

    name: str
    fits: Callable[[object], bool]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


TEXT = Kind("text", lambda value: isinstance(value, str))
WHOLE = Kind("whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
NUMBER = Kind("number", _is_number)
TRUTH = Kind("true or false", lambda value: isinstance(value, bool))
LIST = Kind("list", lambda value: isinstance(value, list))
OBJECT = Kind("object", lambda value: isinstance(value, dict))
TEXT_OR_LIST = Kind("text or list", lambda value: isinstance(value, str | list))
TEXT_OR_OBJECT = Kind("text or object", lambda value: isinstance(value, str | dict))


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter. Null stands for its default."""

    kind: Kind
    doc: str
    default: Any = REQUIRED
    configurable: bool = False
    """Whether the configuration may say another default."""


@dataclass(frozen=True, slots=True)
class Value:
    """One field of what the server tells."""

    kind: Kind
    doc: str
    nullable: bool = False
    """Whether it is null where it is not known."""
    optional: bool = False
    """Whether it may be absent."""
    of: "Kind | Mapping[str, Value] | None" = None
    """What is in a list, or the values of an object: of one kind, or objects with these fields."""


LAYERS: Mapping[str, Value] = {
    "layer": Value(WHOLE, "From 0."),
    "kv_bytes": Value(WHOLE, "Keys, values and state, as allocated."),
}


def bind(fields: Mapping[str, Field], given: object) -> dict[str, Any]:
    """The value of every parameter, by name; None for one that is left out and has a configurable default.

    Args:
        fields: what the method takes.
        given: by name, or in the order of `fields`; None for none.

    Raises:
        InvalidParamsError: one is missing, unknown or of the wrong kind.
    """
    if isinstance(given, list):
        if len(given) > len(fields):
            raise InvalidParamsError(f"there are {len(fields)} parameters at most, not {len(given)}")
        given = dict(zip(fields, given, strict=False))
    named: Mapping[str, Any] = given if isinstance(given, dict) else {}
    for name in named:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            known = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(fields) or 'none'}"
            raise InvalidParamsError(f"unknown parameter {name!r}; {known}")
    values = {}
    for name, field in fields.items():
        value = named.get(name)
        if value is None:
            if field.default is REQUIRED:
                raise InvalidParamsError(f"parameter {name!r} is missing: {field.doc}")
            value = None if field.configurable else field.default
        elif not field.kind.fits(value):
            raise InvalidParamsError(f"{name} must be a {field.kind.name}, not {value!r:.80}")
        values[name] = value
    return values
