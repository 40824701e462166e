"""A method of the protocol: what it is called, takes and gives, and what it does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hwledger_omlx.rpc.fields import Field, Value

if TYPE_CHECKING:
    from hwledger_omlx._native import RpcRequest
    from hwledger_omlx.rpc.service import Service

Work = Literal["now", "short", "long"]
"""On the thread that reads; on one for what is soon done; on one for what may take minutes."""
Run = Callable[["Service", dict[str, Any]], Mapping[str, Any]]
Begin = Callable[["Service", dict[str, Any], "RpcRequest"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method. It has `run`, whose result is the answer, or `begin`, which sees to the answer itself."""

    name: str
    doc: str
    params: Mapping[str, Field] = field(default_factory=dict)
    result: Mapping[str, Value]
    run: Run | None = None
    begin: Begin | None = None
    work: Work = "short"
    example: tuple[Mapping[str, Any], Mapping[str, Any]]
    """Parameters and a result, for the document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """Something that the server tells unasked."""

    name: str
    doc: str
    params: Mapping[str, Value]
    example: Mapping[str, Any]
