"""A request as the caller gave it, checked before the engine sees it. Knows nothing of the fork or of any model.

Field names follow OpenAI's API, with the fork's additions (`top_k`, `min_p`, `repetition_penalty`).
"""

import difflib
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, TypedDict

from hwledger_omlx.engine.events import Message
from hwledger_omlx.errors import RequestError

ROLES = ("system", "developer", "user", "assistant", "tool")


class RequestFields(TypedDict, total=False):
    """The keyword arguments of `generate` and `stream`; each has a default."""

    model: str | None
    request_id: str | None
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    stop: str | Sequence[str]
    seed: int | None
    tools: Sequence[Mapping[str, Any]]
    chat_template_kwargs: Mapping[str, Any]
    thinking_budget: int | None
    deadline_s: float | None
    tenant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One checked request."""

    prompt: str | tuple[Message, ...]
    """Text to be continued as it is, or chat messages for the model's template."""
    model: str | None = None
    """Id of a loaded model; None for the one the engine was opened with."""
    request_id: str
    max_tokens: int = 256
    temperature: float = 0.7
    """0.0 takes the likeliest token each time."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means all tokens."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    """The text ends before the first of these that turns up."""
    seed: int | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    """Tool definitions as in OpenAI's API."""
    chat_template_kwargs: Mapping[str, Any] | None = None
    thinking_budget: int | None = None
    """Most tokens of reasoning; None for no limit."""
    deadline_s: float | None = None
    """Ends the request so many seconds after its submission, with what there is; None for no deadline."""
    tenant: str = ""
    """Whose prompt it is: cached KV is shared between requests of the same tenant only."""

    @classmethod
    def parse(cls, prompt: str | Sequence[Message], **given: object) -> "GenerateRequest":
        """Checks `prompt` and the fields of `RequestFields`.

        Raises:
            RequestError: for a field that does not exist or has an impossible value, and for an empty prompt.
        """
        known = {field.name for field in fields(cls)} - {"prompt"}
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(sorted(known))}"
                raise RequestError(f"unknown request field {name!r}; {hint}")
        values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        values["prompt"] = _checked_prompt(prompt)
        values["request_id"] = str(values.get("request_id") or f"req-{uuid.uuid4().hex}")
        _check_numbers(values)
        values["stop"] = _checked_stop(values.get("stop", ()))
        values["tools"] = _checked_tools(values.get("tools", ()))
        if not isinstance(values.get("model", ""), str):
            raise RequestError(f"model must be the id of a loaded model, not {values['model']!r}")
        if not isinstance(values.get("tenant", ""), str):
            raise RequestError(f"tenant must be a text, not {values['tenant']!r}")
        if not isinstance(values.get("chat_template_kwargs", {}), Mapping):
            raise RequestError(f"chat_template_kwargs must be a mapping, not {values['chat_template_kwargs']!r}")
        if values["tools"] and isinstance(values["prompt"], str):
            raise RequestError("tools need chat messages; pass [{'role': 'user', 'content': ...}] and not bare text")
        return cls(**values)


def _checked_prompt(prompt: object) -> str | tuple[Message, ...]:
    if isinstance(prompt, str):
        if not prompt:
            raise RequestError("the prompt is empty; give some text to continue")
        return prompt
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise RequestError(f"a prompt is text or a list of messages, not {type(prompt).__name__}")
    if not prompt:
        raise RequestError("the list of messages is empty; give at least one user message")
    for position, message in enumerate(prompt):
        if not isinstance(message, Mapping) or "role" not in message:
            raise RequestError(f"message {position} is not a mapping with a 'role' and a 'content'")
        if message["role"] not in ROLES:
            raise RequestError(f"message {position} has role {message['role']!r}; roles are {', '.join(ROLES)}")
        if message.get("content") is None and not message.get("tool_calls"):
            raise RequestError(f"message {position} ({message['role']}) has no content")
    return tuple(prompt)


def _checked_tools(tools: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(tools, Sequence) or any(not isinstance(tool, Mapping) for tool in tools):
        raise RequestError(f"tools must be a list of tool definitions as in OpenAI's API, not {tools!r}")
    return tuple(tools)


_WHOLE: dict[str, tuple[int | None, int | None]] = {
    "max_tokens": (1, None),
    "top_k": (0, None),
    "seed": (0, 2**64 - 1),
    "thinking_budget": (0, None),
}
_DECIMAL: dict[str, tuple[float, float | None]] = {
    "temperature": (0.0, None),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.0, None),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "deadline_s": (0.0, None),
}


def _check_numbers(values: dict[str, Any]) -> None:
    for name in (*_WHOLE, *_DECIMAL):
        value = values.get(name)
        if value is None:
            continue
        # Integral and Real, so that NumPy's numbers are taken too.
        if isinstance(value, bool) or not isinstance(value, Integral if name in _WHOLE else Real):
            raise RequestError(f"{name} must be a {'whole ' if name in _WHOLE else ''}number, not {value!r}")
        values[name] = value = int(value) if isinstance(value, Integral) and name in _WHOLE else float(value)
        low, high = _WHOLE[name] if name in _WHOLE else _DECIMAL[name]
        # Written so that NaN, which compares false with everything, is refused too.
        if not ((low is None or value >= low) and value <= (math.inf if high is None else high)) or value == math.inf:
            limits = f"at least {low}" if high is None else f"between {low} and {high}"
            raise RequestError(f"{name} must be {limits}, not {value!r}")


def _checked_stop(stop: object) -> tuple[str, ...]:
    sequences = (stop,) if isinstance(stop, str) else stop
    if not isinstance(sequences, Sequence) or any(not isinstance(text, str) or not text for text in sequences):
        raise RequestError(f"stop must be a text or a list of non-empty texts, not {stop!r}")
    return tuple(sequences)
