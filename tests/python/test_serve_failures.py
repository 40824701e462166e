"""What clients are told when the server ends before their answer is there."""

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from hwledger_omlx.serve.failures import AnthropicErrors, CutShort


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
