"""What an engine tells its caller: typed events of a stream, and the result of a whole generation.

Knows nothing of the fork. Times are seconds, rates are per second, lengths are tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_calls", "cancelled", "deadline"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int
    """Tokens of the prompt, the chat template's included."""
    completion_tokens: int
    """Tokens generated, without the end-of-turn token that ended the answer."""
    cached_tokens: int
    """Prompt tokens whose KV was restored and not computed."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Times of one request, measured from its submission."""

    ttft_s: float
    """Seconds to the first token; to the end where there was none."""
    total_s: float
    """Seconds to the end."""
    decode_tokens_per_s: float
    """Tokens after the first, per second after the first; 0.0 where there was none."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, as the fork's parser read it out of the text."""

    id: str
    name: str
    arguments: str
    """JSON text of the arguments, as OpenAI's API has it."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished request."""

    request_id: str
    model: str
    """Id of the model that answered."""
    text: str
    """The answer, without special tokens, reasoning and tool calls."""
    token_ids: tuple[int, ...]
    """Every token generated, in order, without the end-of-turn token that ended the answer."""
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    reasoning: str = ""
    """What a reasoning model thought before it answered."""
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One or more tokens, as soon as they are there. The texts of a stream join to the raw output."""

    request_id: str
    text: str
    """May be empty while a character is incomplete."""
    token_ids: tuple[int, ...]
    kind: Literal["token"] = "token"


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far the prefill of the prompt has come: at its start, and after each chunk."""

    request_id: str
    done_tokens: int
    """Prompt tokens computed or restored by now."""
    total_tokens: int
    """All tokens of the prompt."""
    kind: Literal["progress"] = "progress"


@dataclass(frozen=True, slots=True)
class DoneEvent:
    """The last event of a stream."""

    request_id: str
    result: Generation
    kind: Literal["done"] = "done"


Event = TokenEvent | ProgressEvent | DoneEvent

Message = Mapping[str, Any]
"""One chat message as in OpenAI's API: `role`, `content`, and what the role adds, such as `tool_calls`."""
