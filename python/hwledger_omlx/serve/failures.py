"""Errors as the clients of OpenAI's and Anthropic's API expect them. Knows neither the fork nor a route's work.

Anthropic's form and its names: https://docs.anthropic.com/en/api/errors
"""

import asyncio
import contextlib
import json
import logging
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hwledger_omlx.errors import Error, KvPolicyError, ModelError, ModelNotFoundError, RequestError

logger = logging.getLogger(__name__)

_MESSAGES = "/v1/messages"
_RESPONSES = "/v1/responses"
_ENDS = "the server ends"
_TO_SAY_S = 1.0
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


async def failed(_: Request, error: Exception) -> JSONResponse:
    """An error of ours: most often a model that cannot be loaded as it should be."""
    return failure(error)


def failure(error: Exception) -> JSONResponse:
    """The same, for who has no request at hand."""
    status = 500
    if isinstance(error, ModelNotFoundError):
        status = 404
    elif isinstance(error, ModelError | KvPolicyError | RequestError):
        status = 400
    kind = "server_error" if status == 500 else "invalid_request_error"
    said = {"message": str(error), "type": kind, "param": None, "code": None}
    return JSONResponse({"error": said}, status_code=status)


async def answered(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Has `app` answer, and says what went wrong where it fails before it has said anything.

    The fork sends `200 OK` and a space before it generates an answer that is not streamed, so that a failure could only
    cut the connection off. They are held back until something follows them, for the ten seconds that the fork lets pass
    before its next space at most.
    """
    held = _Held(send)
    try:
        await app(scope, receive, held)
    except Exception as error:
        if held.is_through:
            raise
        # Starlette wraps an error that has a handler of its own, which came too late.
        told = error.__cause__ if isinstance(error.__cause__, Error) else error
        logger.error("%s failed: %s", scope["path"], told)
        await failure(told)(scope, receive, send)
    else:
        await held.let_through()


class _Held:
    """Lets nothing through until there is more than the start of an answer and a blank."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._messages: list[Message] = []
        self.is_through = False

    async def __call__(self, message: Message) -> None:
        if self.is_through:
            await self._send(message)
            return
        self._messages.append(message)
        is_blank = message["type"] == "http.response.body" and message.get("more_body") and not message["body"].strip()
        is_start = message["type"] == "http.response.start"
        if not (len(self._messages) <= 2 and (is_start or is_blank)):
            await self.let_through()

    async def let_through(self) -> None:
        """Sends what was held."""
        self.is_through = True
        while self._messages:
            await self._send(self._messages.pop(0))


class CutShort:
    """Says so to who still waits for an answer, or for the rest of one, when the server ends.

    uvicorn cancels what outlasts its deadline, and nothing else. It would log each with its stack, and answer with a
    500 that clients take for a fault of the server. An answer that has begun and is no stream breaks off.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on."""
        begun: Message | None = None

        async def send_on(message: Message) -> None:
            nonlocal begun
            begun = begun or message
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            if begun is None:
                said = {"message": f"{_ENDS}; ask again", "type": "server_error", "param": None, "code": None}
                headers = {"retry-after": "5", "connection": "close"}
                await JSONResponse({"error": said}, 503, headers)(scope, receive, send)
            elif _is_stream(begun):
                # Who does not read it is not waited for.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TO_SAY_S):
                        await send({"type": "http.response.body", "body": _last_event(scope["path"])})


def _is_stream(start: Message) -> bool:
    media_type: bytes = dict(start["headers"]).get(b"content-type", b"")
    return media_type.startswith(b"text/event-stream")


def _last_event(path: str) -> bytes:
    """The error at the end of a stream, as the API of that path has it.

    https://docs.anthropic.com/en/docs/build-with-claude/streaming#error-events,
    https://platform.openai.com/docs/api-reference/responses-streaming/error; of the rest, what OpenAI's client reads.
    """
    message = f"{_ENDS} before the answer was complete; ask again"
    said: dict[str, Any]
    if path == _MESSAGES:
        name, said = "error", {"type": "error", "error": {"type": _ANTHROPIC_TYPES[503], "message": message}}
    elif path == _RESPONSES:
        name, said = "error", {"type": "error", "code": "server_error", "message": message, "param": None}
    else:
        name, said = "", {"error": {"message": message, "type": "server_error", "param": None, "code": None}}
    # An event that was not ended is, by the empty line before.
    event = f"event: {name}\n" if name else ""
    return f"\n\n{event}data: {json.dumps(said)}\n\n".encode()


class AnthropicErrors:
    """Gives the errors of `/v1/messages` the form of Anthropic's API; the fork has OpenAI's for all."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on everything but the errors of those paths."""
        of_messages = scope["type"] == "http" and (scope["path"] + "/").startswith(_MESSAGES + "/")
        await self._app(scope, receive, _Rewriting(send) if of_messages else send)


class _Rewriting:
    """Holds an error back until its body is whole. Answers and streams go through as they come."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                body = _as_anthropic_says(self._start["status"], self._body)
                headers = [(name, value) for name, value in self._start["headers"] if name != b"content-length"]
                headers.append((b"content-length", str(len(body)).encode()))
                await self._send({**self._start, "headers": headers})
                await self._send({"type": "http.response.body", "body": body})


def _as_anthropic_says(status: int, body: bytes) -> bytes:
    try:
        said: Any = json.loads(body)
    except ValueError:
        return body
    error = said.get("error", said) if isinstance(said, dict) else {}
    message = error.get("message") or error.get("detail") or "the request failed"
    kind = _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
