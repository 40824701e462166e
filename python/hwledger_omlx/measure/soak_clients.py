"""The clients of `bench soak`: conversations over HTTP, most to their end, some left in the middle. Knows no process.

Their choices come from one seed; their order in time is the machine's.
"""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

_HOBBIES = ("fishing", "chess", "painting", "sailing", "weaving")
_TOKENS = 48
_PAUSE_S = 0.25
"""Between two reads of a slow reader."""


@dataclass(slots=True)
class Tally:
    """What came of the requests so far."""

    requests: int = 0
    cancelled: int = 0
    """Left by their client: in the middle of a stream, or before its first token."""
    refused: int = 0
    """Of those that had to be: a model that is not there, a number that cannot be."""
    tokens: int = 0
    """Read by clients; chunks of text, which hold one each."""
    ttft_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """What nobody meant to happen."""


class Clients:
    """So many clients of one server, until a moment.

    Args:
        url: of the server.
        model: the id of the model to talk to.
        seed: of their choices.
    """

    def __init__(self, url: str, model: str, seed: int) -> None:
        self.tally = Tally()
        self._url = url
        self._model = model
        self._seed = seed
        self._end_s = 0.0

    async def run(self, count: int, seconds: float) -> None:
        """Has `count` of them talk for that long, and come to an end."""
        self._end_s = time.monotonic() + seconds
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=300, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            for number in range(count):
                # Not for secrets.
                draw = random.Random(f"{self._seed}/{number}")  # noqa: S311
                group.create_task(self._talk(client, draw))

    async def _talk(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        while self._left_s > 0:
            messages = [{"role": "system", "content": _notes(draw)}]
            for _ in range(draw.randint(1, 4)):
                question = f"What does person {draw.randrange(40)} like?"
                messages.append({"role": "user", "content": question})
                answer = await self._turn(client, draw, messages)
                if answer is None or self._left_s <= 0:
                    break
                messages.append({"role": "assistant", "content": answer or "."})

    @property
    def _left_s(self) -> float:
        return self._end_s - time.monotonic()

    async def _turn(self, client: httpx.AsyncClient, draw: random.Random, messages: list[dict[str, str]]) -> str | None:
        """The answer; None where the client has left, or got none."""
        self.tally.requests += 1
        body: dict[str, Any] = {"model": self._model, "messages": messages, "max_tokens": _TOKENS, "stream": True}
        luck = draw.random()
        try:
            if luck < 0.05:
                await self._be_refused(client, body, draw)
                return None
            if luck < 0.10:
                await self._hang_up(client, body, draw)
                return None
            leave_after = draw.randrange(1, _TOKENS) if luck < 0.25 else None
            return await self._read(client, body, leave_after=leave_after, slowly=luck > 0.95)
        except (httpx.HTTPError, ValueError, KeyError, AssertionError) as error:
            self.tally.errors.append(f"{type(error).__name__}: {error}"[:200])
            return None

    async def _be_refused(self, client: httpx.AsyncClient, body: dict[str, Any], draw: random.Random) -> None:
        wrong: dict[str, Any] = draw.choice(
            [{"model": "no-such-model"}, {"max_tokens": 0}, {"messages": []}, {"messages": "x"}]
        )
        answer = await client.post("/v1/chat/completions", json=body | wrong)
        if answer.status_code not in {400, 404, 422}:
            raise ValueError(f"{wrong} was answered with {answer.status_code}")
        self.tally.refused += 1

    async def _hang_up(self, client: httpx.AsyncClient, body: dict[str, Any], draw: random.Random) -> None:
        patience = httpx.Timeout(300, read=draw.uniform(0.01, 1.0))
        try:
            await client.post("/v1/chat/completions", json=body | {"stream": False}, timeout=patience)
        except httpx.ReadTimeout:
            self.tally.cancelled += 1

    async def _read(
        self, client: httpx.AsyncClient, body: dict[str, Any], *, leave_after: int | None, slowly: bool
    ) -> str | None:
        began_s = time.monotonic()
        texts: list[str] = []
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                raise ValueError(f"{answer.status_code}: {(await answer.aread())[:100]!r}")
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    return "".join(texts)
                text = _text(line)
                if text:
                    if not texts:
                        self.tally.ttft_s.append(time.monotonic() - began_s)
                    texts.append(text)
                    self.tally.tokens += 1
                    if slowly:
                        await asyncio.sleep(_PAUSE_S)
                if leave_after is not None and len(texts) >= leave_after:
                    self.tally.cancelled += 1
                    return None
        raise ValueError("a stream ended without its end")


def _text(line: str) -> str:
    if not line.startswith("data: "):
        return ""
    said = json.loads(line.removeprefix("data: "))
    if "error" in said:
        raise ValueError(said["error"]["message"])
    return "".join(choice["delta"].get("content") or "" for choice in said["choices"])


def _notes(draw: random.Random) -> str:
    """Some of few long beginnings, so that many are in the cache and some have gone from it."""
    kind = draw.randrange(30)
    likes = " ".join(f"Person {number} likes {_HOBBIES[(number + kind) % len(_HOBBIES)]}." for number in range(20))
    return f"These are the notes of office {kind}. {likes}"
