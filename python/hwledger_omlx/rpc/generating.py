"""`generate` and `cancel`: a request of the engine, its text as notifications, its end as the answer."""

from typing import TYPE_CHECKING, Any

from hwledger_omlx._native import RpcRequest, RpcTextStream
from hwledger_omlx.engine.events import DoneEvent, Event, Generation, TokenEvent
from hwledger_omlx.engine.request import GenerateRequest
from hwledger_omlx.errors import RequestError
from hwledger_omlx.rpc.answering import fail, succeed
from hwledger_omlx.rpc.calls import Calls
from hwledger_omlx.rpc.fields import (
    LIST,
    NUMBER,
    OBJECT,
    TEXT,
    TEXT_OR_LIST,
    TRUTH,
    WHOLE,
    Field,
    InvalidParamsError,
    Value,
)
from hwledger_omlx.rpc.method import Method

if TYPE_CHECKING:
    from hwledger_omlx.rpc.service import Service


def _generate(service: "Service", params: dict[str, Any], call: RpcRequest) -> None:
    request = _request(service, params)
    text = service.connection.stream("token", request.request_id) if params["stream"] else None
    service.calls.begin()
    answer = Answer(service.calls, call, text)
    try:
        service.session.submit(request, answer.take)
    except BaseException:
        service.calls.end()
        raise


class Answer:
    """Takes the events of one request, on the engine's thread, and never waits there.

    Args:
        calls: counts this one until its end.
        call: what is answered.
        text: where the text goes as it comes; None where the answer has it whole.
    """

    def __init__(self, calls: Calls, call: RpcRequest, text: RpcTextStream | None) -> None:
        self._calls = calls
        self._call = call
        self._text = text

    def take(self, event: Event | Exception) -> None:
        """Sends it on."""
        if isinstance(event, TokenEvent):
            if self._text is not None and event.text:
                self._text.send(event.text)
            return
        if not isinstance(event, DoneEvent | Exception):
            return
        try:
            if isinstance(event, DoneEvent):
                succeed(self._call, _result(event.result, whole=self._text is None))
            else:
                fail(self._call, event)
        finally:
            self._calls.end()


def _request(service: "Service", params: dict[str, Any]) -> GenerateRequest:
    given = {name: value for name, value in params.items() if value is not None and name != "stream"}
    given["model"] = service.model_id(given.get("model"))
    given = service.settings.defaults.complete(given, given["model"] or next(iter(service.session.loaded), ""))
    prompt, messages = given.pop("prompt", None), given.pop("messages", None)
    if (prompt is None) == (messages is None):
        raise InvalidParamsError("give either prompt, a text, or messages, a list")
    try:
        return GenerateRequest.parse(messages if prompt is None else prompt, **given)
    except RequestError as error:
        raise InvalidParamsError(str(error)) from error


def _result(made: Generation, *, whole: bool) -> dict[str, Any]:
    said: dict[str, Any] = {
        "request_id": made.request_id,
        "prompt_tokens": made.usage.prompt_tokens,
        "completion_tokens": made.usage.completion_tokens,
        "stopped_reason": made.finish_reason,
        "model": made.model,
        "cached_tokens": made.usage.cached_tokens,
        "ttft_s": made.timings.ttft_s,
        "total_s": made.timings.total_s,
    }
    if whole:
        said["text"] = made.text
    if made.reasoning:
        said["reasoning"] = made.reasoning
    if made.tool_calls:
        said["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.arguments} for call in made.tool_calls
        ]
    return said


def _cancel(service: "Service", params: dict[str, Any]) -> dict[str, Any]:
    return {"cancelled": service.session.cancel(params["request_id"])}


_TOOL_CALLS = {
    "id": Value(TEXT, "Of the call."),
    "name": Value(TEXT, "Of the tool."),
    "arguments": Value(TEXT, "JSON."),
}

GENERATE = Method(
    name="generate",
    doc="Continues a text, or answers messages by the model's chat template. Each piece of the answer is a `token` "
    "notification as soon as it is there; the result comes last.",
    params={
        "prompt": Field(TEXT, "Text to continue. Either this or `messages`.", None),
        "messages": Field(LIST, "Chat messages as OpenAI's API has them.", None),
        "model": Field(TEXT, "A loaded model: its id, or the folder or hub id it was loaded by.", None),
        "max_tokens": Field(WHOLE, "Most tokens of the answer.", 256, configurable=True),
        "temperature": Field(NUMBER, "0 takes the likeliest token each time.", 0.7, configurable=True),
        "stream": Field(TRUTH, "Whether the text comes as `token` notifications; else it is in the result.", True),
        "request_id": Field(TEXT, "What notifications and `cancel` call it; made up where it is not given.", None),
        "seed": Field(WHOLE, "Same seed, same text.", None),
        "top_p": Field(NUMBER, "As in OpenAI's API.", 1.0, configurable=True),
        "top_k": Field(WHOLE, "0 for all tokens.", 0, configurable=True),
        "min_p": Field(NUMBER, "Least probability, of the likeliest token's.", 0.0, configurable=True),
        "repetition_penalty": Field(NUMBER, "1 for none.", 1.0, configurable=True),
        "presence_penalty": Field(NUMBER, "As in OpenAI's API.", 0.0, configurable=True),
        "frequency_penalty": Field(NUMBER, "As in OpenAI's API.", None),
        "stop": Field(TEXT_OR_LIST, "The text ends before the first of these that turns up.", None),
        "tools": Field(LIST, "Tool definitions as in OpenAI's API; with `messages`.", None),
        "chat_template_kwargs": Field(OBJECT, "For the model's chat template.", None),
        "thinking_budget": Field(WHOLE, "Most tokens of reasoning.", None),
        "tenant": Field(TEXT, "Cached KV is shared between requests of the same tenant only.", None),
    },
    result={
        "request_id": Value(TEXT, "As given, or made up."),
        "prompt_tokens": Value(WHOLE, "Tokens of the prompt, the chat template's included."),
        "completion_tokens": Value(WHOLE, "Tokens generated."),
        "stopped_reason": Value(TEXT, "`stop`, `length`, `tool_calls` or `cancelled`."),
        "model": Value(TEXT, "Id of the model that answered."),
        "cached_tokens": Value(WHOLE, "Prompt tokens whose KV was restored and not computed."),
        "ttft_s": Value(NUMBER, "Seconds to the first token."),
        "total_s": Value(NUMBER, "Seconds to the end."),
        "text": Value(TEXT, "The answer; absent where it was streamed.", optional=True),
        "reasoning": Value(TEXT, "What a reasoning model thought first; absent where it did not.", optional=True),
        "tool_calls": Value(LIST, "Absent where there are none.", optional=True, of=_TOOL_CALLS),
    },
    begin=_generate,
    example=(
        {"prompt": "Once upon a time", "max_tokens": 3, "temperature": 0, "request_id": "r1"},
        {
            "request_id": "r1",
            "prompt_tokens": 4,
            "completion_tokens": 3,
            "stopped_reason": "length",
            "model": "notes",
            "cached_tokens": 0,
            "ttft_s": 0.021,
            "total_s": 0.048,
        },
    ),
)

CANCEL = Method(
    name="cancel",
    doc="Ends a request; its result comes with the reason `cancelled`.",
    params={"request_id": Field(TEXT, "Of a `generate` that runs.")},
    result={"cancelled": Value(TRUTH, "Whether one of that id ran.")},
    run=_cancel,
    example=({"request_id": "r1"}, {"cancelled": True}),
)
