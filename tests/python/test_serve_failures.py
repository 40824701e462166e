"""What clients are told when the server ends before their answer is there."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import openai
import pytest
from starlette.types import Message, Receive, Scope, Send

import hwledger_omlx as hw
from hwledger_omlx.models import NOTES
from hwledger_omlx.serve.failures import AnthropicErrors, CutShort
from hwledger_omlx.serve.server import Server
from hwledger_omlx.serve.settings import ServerSettings

QUESTION: Any = [{"role": "user", "content": "Tell me of my locker."}]
TOLD = "the server ends before the answer was complete"


@pytest.mark.parametrize("has_begun", [False, True])
def test_who_waits_at_the_end_is_told_to_ask_again(has_begun: bool) -> None:
    sent: list[Message] = []

    async def app(_: Scope, __: Receive, send: Send) -> None:
        if has_begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/messages", "headers": []}
        answering = asyncio.ensure_future(AnthropicErrors(CutShort(app))(scope, receive, send))
        await asyncio.sleep(0)
        answering.cancel()
        await answering

    asyncio.run(run())
    if has_begun:  # what was promised is broken off, and nothing is put behind it
        assert [message["type"] for message in sent] == ["http.response.start"]
    else:
        assert sent[0]["status"] == 503
        assert dict(sent[0]["headers"])[b"retry-after"] == b"5"
        assert json.loads(sent[1]["body"])["error"]["type"] == "overloaded_error"


def chat(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield from client.chat.completions.create(model="notes", messages=QUESTION, stream=True)


def completion(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield from client.completions.create(model="notes", prompt="My locker", stream=True)


def response(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        for event in client.responses.create(model="notes", input="Tell me of my locker.", stream=True):
            if event.type == "error":
                raise openai.OpenAIError(event.message)
            yield event


def message(url: str) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        yield from client.messages.create(model="notes", messages=QUESTION, max_tokens=500, stream=True)


def test_a_stream_that_the_end_cuts_short_says_so() -> None:
    streams: tuple[Callable[[str], Iterator[Any]], ...] = (chat, completion, response, message)
    engine = hw.EngineConfig(model=None, cache=None)
    with (
        Server(ServerSettings(engine=engine, models=[NOTES], port=0, shutdown_s=1.0)) as server,
        ThreadPoolExecutor(len(streams)) as clients,
    ):
        scheduler = server.session.loaded["notes"].engine._engine.engine.scheduler
        step = scheduler.step

        def slow() -> Any:
            if len(scheduler.requests) == len(streams):
                server.end_soon()
            time.sleep(0.4)
            return step()

        scheduler.step = slow
        for answer in [clients.submit(lambda each: list(each(server.url)), stream) for stream in streams]:
            with pytest.raises((openai.OpenAIError, anthropic.AnthropicError), match=TOLD):
                answer.result(60)


def test_who_does_not_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwledger_omlx.serve.failures._TO_SAY_S", 0.0)
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await asyncio.Event().wait()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def run() -> None:
        answering = asyncio.ensure_future(CutShort(app)({"type": "http", "path": "/v1/completions"}, receive, send))
        await asyncio.sleep(0)
        answering.cancel()
        await answering

    asyncio.run(run())
