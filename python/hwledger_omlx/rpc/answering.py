"""How a call ends: its result as JSON, or the error that an exception is, by the specification's codes."""

import difflib
import json
import logging
from collections.abc import Iterable
from typing import Any

from hwledger_omlx._native import RpcRequest
from hwledger_omlx.errors import Error
from hwledger_omlx.rpc.fields import InvalidParamsError

METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL = -32603
FAILED = -32000

logger = logging.getLogger(__name__)
_encoder = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def text_of(value: Any) -> str:
    """JSON of one line, ASCII."""
    return _encoder.encode(value)


def succeed(request: RpcRequest, result: Any) -> None:
    """Answers with a result."""
    request.result(text_of(result))


def fail(request: RpcRequest, error: BaseException) -> None:
    """Answers with what went wrong: class and message, in the error's data too."""
    code = INVALID_PARAMS if isinstance(error, InvalidParamsError) else FAILED
    if not isinstance(error, Error):
        code = INTERNAL
        logger.error("%s failed", request.method, exc_info=error)
    told = "RequestError" if isinstance(error, InvalidParamsError) else type(error).__name__
    # The client's line must come through whatever the message holds; a lone surrogate would not.
    message = str(error).encode("utf-8", "replace").decode()
    request.error(code, message, text_of({"class": told, "message": message}))


def refuse_unknown(request: RpcRequest, known: Iterable[str]) -> None:
    """Answers that there is no such method."""
    near = difflib.get_close_matches(request.method, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "protocol.version names them"
    message = f"no method {request.method[:100]!r}; {hint}"
    request.error(METHOD_NOT_FOUND, message, text_of({"class": "RequestError", "message": message}))
