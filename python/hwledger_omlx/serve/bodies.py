"""What the fork does not look for in the body of a request: checked, or put in its words, before it reads the body.

It takes any number for `max_tokens` and the rest, fails inside on a conversation without messages, calls tools that the
request says not to call, and does not know `max_completion_tokens`, which OpenAI has in place of `max_tokens` and
LangChain sends. What is wrong in kind (a text for a number, no JSON at all) it refuses by itself, in the words of its
own models, so that is left to it.
"""

import json
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hwledger_omlx.engine.request import GenerateRequest
from hwledger_omlx.errors import RequestError
from hwledger_omlx.serve.failures import answered, failure
from hwledger_omlx.serve.turns import Turns

_PROMPT_OF = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/messages": "messages",
    "/v1/responses": "input",
}
_NUMBERS = {
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
"""Of the APIs, by the name that the engine's own requests have for each."""


class CheckedBodies:
    """Checks the requests that generate text, and has them wait for their turn.

    Args:
        app: answers them.
        turns: of each model.
        model_id: gives the id of a model that a request names in whatever way, or does not name.
    """

    def __init__(self, app: ASGIApp, turns: Turns, model_id: Callable[[str], str]) -> None:
        self._app = app
        self._turns = turns
        self._model_id = model_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with the error, or has the fork answer."""
        prompt = _PROMPT_OF.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if prompt is None:
            await self._app(scope, receive, send)
            return
        body = await _whole(receive)
        if body is None:
            return  # its client has left
        try:
            body, model = checked(body, prompt)
        except RequestError as error:
            await failure(error)(scope, receive, send)
            return
        async with self._turns.turn(self._model_id(model), receive) as has_come:
            if has_come:
                await answered(self._app, scope, _first(body, receive), send)


def checked(body: bytes, prompt: str) -> tuple[bytes, str]:
    """The body as the fork is to have it, the same bytes where there is nothing to put in other words; and the model.

    Args:
        body: what was sent.
        prompt: the field that must not be empty.

    Raises:
        RequestError: a number that cannot be, an empty prompt, more than one choice.
    """
    try:
        said: Any = json.loads(body)
    except RecursionError as error:
        raise RequestError("the request is nested too deeply") from error
    except ValueError:
        return body, ""
    if not isinstance(said, dict):
        return body, ""
    for name, field in _NUMBERS.items():
        value = said.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                GenerateRequest.parse("checked", **{field: value})
            except RequestError as error:
                raise RequestError(str(error).replace(field, name, 1)) from error
    if said.get(prompt) in ("", []) and not said.get("previous_response_id"):
        raise RequestError(f"{prompt} is empty; give at least one message, or some text")
    if said.get("n") not in (None, 1):
        raise RequestError(f"n must be 1, not {said['n']!r}: one request has one answer; send it again for another")
    more: dict[str, Any] = {}
    if said.get("max_completion_tokens") is not None and said.get("max_tokens") is None:
        more["max_tokens"] = said["max_completion_tokens"]
    if said.get("tool_choice") in ("none", {"type": "none"}):
        more["tools"] = None
    return json.dumps(said | more).encode() if more else body, str(said.get("model") or "")


async def _whole(receive: Receive) -> bytes | None:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _first(body: bytes, receive: Receive) -> Receive:
    """Gives the body, and after it whatever comes: that the client has left."""
    rest: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        return rest.pop() if rest else await receive()

    return read
