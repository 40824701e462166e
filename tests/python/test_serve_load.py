"""A hundred clients at once, most of them rude, and models that fail to load meanwhile: nothing is left behind."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
import pytest

from serving import KEY, Served, until

STREAMS = 100
SEED = 6
TOKENS = 24
LONG = "Say it once more, and slowly. " * 12


def body(text: str, **more: object) -> dict[str, object]:
    return {"model": "tiny", "prompt": text, "max_tokens": TOKENS, "temperature": 0, "stream": True, **more}


Kind = Callable[[httpx.AsyncClient, str], Awaitable[None]]


@dataclass(frozen=True)
class Left:
    """What the server holds."""

    threads: int
    files: int
    connections: int
    kv_bytes: float
    resident_bytes: int


def left(served: Served) -> Left:
    with served.process.oneshot():
        return Left(
            served.process.num_threads(),
            served.process.num_fds() if hasattr(served.process, "num_fds") else 0,
            len(served.process.net_connections(kind="tcp")),
            served.metrics().get("hwledger_kv_bytes", 0.0),
            served.process.memory_info().rss,
        )


def idle(served: Served) -> bool:
    metrics = served.metrics()
    # Of the scrape itself there is one connection at most.
    connections = [each for each in served.process.net_connections(kind="tcp") if each.status != "LISTEN"]
    return not (metrics["hwledger_requests_running"] or metrics["hwledger_requests_waiting"]) and len(connections) <= 1


class Wave:
    """A hundred clients who begin together, of each kind as many."""

    def __init__(self, served: Served, draw: random.Random) -> None:
        self._served = served
        self._draw = draw
        self._begin = asyncio.Barrier(STREAMS)
        self._polite_are_done = asyncio.Event()
        self._kinds = (self._reads, self._reads_late, self._leaves, self._hangs_up, self._sends_half)
        self._hasty = STREAMS * 4 // 5
        self.whole: list[int] = []
        """Chunks of each answer that was read to its end."""

    async def run(self) -> None:
        headers = {"authorization": f"Bearer {KEY}"}
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(base_url=self._served.url, headers=headers, timeout=240, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            for index in range(STREAMS):
                prompt = LONG + str(self._draw.randrange(10)) if self._draw.random() < 0.5 else str(self._draw.random())
                group.create_task(self._one(client, self._kinds[index % len(self._kinds)], prompt))

    async def _one(self, client: httpx.AsyncClient, kind: Kind, prompt: str) -> None:
        await self._begin.wait()
        await kind(client, prompt)
        if kind != self._reads_late:
            self._hasty -= 1
            if not self._hasty:
                self._polite_are_done.set()

    async def _reads(self, client: httpx.AsyncClient, prompt: str) -> None:
        async with client.stream("POST", "/v1/completions", json=body(prompt)) as answer:
            await self._read(answer)

    async def _reads_late(self, client: httpx.AsyncClient, prompt: str) -> None:
        async with client.stream("POST", "/v1/completions", json=body(prompt)) as answer:
            await self._polite_are_done.wait()
            await self._read(answer)

    async def _leaves(self, client: httpx.AsyncClient, prompt: str) -> None:
        chunks = self._draw.randrange(1, 12)
        async with client.stream("POST", "/v1/completions", json=body(prompt, max_tokens=2000)) as answer:
            async for line in answer.aiter_lines():
                chunks -= line.startswith("data: {")
                if not chunks:
                    return
        raise AssertionError(f"an answer of 2000 tokens had ended: {answer}, {line}")

    async def _hangs_up(self, client: httpx.AsyncClient, prompt: str) -> None:
        asked = body(prompt, max_tokens=2000, stream=False)
        with contextlib.suppress(httpx.ReadTimeout):
            await client.post("/v1/completions", json=asked, timeout=httpx.Timeout(240, read=0.2))

    async def _sends_half(self, _: httpx.AsyncClient, prompt: str) -> None:
        host, port = self._served.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n" + prompt.encode())
        await writer.drain()
        writer.transport.abort()

    async def _read(self, answer: httpx.Response) -> None:
        lines = [line async for line in answer.aiter_lines() if line.startswith("data: ")]
        assert lines[-1] == "data: [DONE]"
        self.whole.append(len(lines))


async def wave(served: Served, draw: random.Random) -> int:
    """How many answers were read to their end."""
    clients = Wave(served, draw)
    await clients.run()
    # A keep-alive first, at last the reason and the end; tokens may come two in a chunk.
    assert all(2 < chunks <= TOKENS + 3 for chunks in clients.whole)
    await asyncio.to_thread(until, lambda: idle(served), "the clients are gone")
    return len(clients.whole)


@pytest.mark.timeout(280)
async def test_a_hundred_rude_clients_leave_nothing_behind(served: Served) -> None:
    draw = random.Random(SEED)
    await wave(served, draw)  # has every thread and pool there that is to stay
    before, counted = left(served), served.metrics()
    # Two of five kinds read to the end.
    assert await wave(served, draw) == STREAMS * 2 // 5
    after, then = left(served), served.metrics()
    ended = then["hwledger_requests_total"] - counted["hwledger_requests_total"]
    # Who leaves before the engine has the request has made none.
    assert STREAMS * 2 // 5 <= ended <= STREAMS * 4 // 5
    assert after.threads <= before.threads
    assert after.files <= before.files + 1
    assert after.connections <= before.connections + 1
    assert after.kv_bytes == before.kv_bytes == 0
    # A leak of the KV of one wave would be 100 MiB and more.
    assert after.resident_bytes - before.resident_bytes < 48 << 20
    # Nothing keeps a stored block from being given up.
    with served.client() as client:
        client.post("/admin/api/login", json={"api_key": KEY})
        assert client.post("/admin/api/ssd-cache/clear").json()["total_deleted"] > 0
        models = client.get("/admin/api/stats").json()["runtime_cache"]["models"]
        assert {each["indexed_blocks"] for each in models} == {0}


async def test_models_that_cannot_be_loaded_do_not_disturb_a_stream(served: Served) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=served.url, headers=headers, timeout=240) as client:

        async def text() -> str:
            asked = {**body("Once upon a time", max_tokens=200), "model": "notes"}
            async with client.stream("POST", "/v1/completions", json=asked) as answer:
                lines = [line async for line in answer.aiter_lines() if line.startswith("data: {")]
            return "".join(
                choice["text"] for line in lines for choice in httpx.Response(200, text=line[6:]).json()["choices"]
            )

        async def fail(model: str, path: str) -> int:
            asked = {"model": model, "max_tokens": 2, "messages": [{"role": "user", "content": "x"}], "input": "x"}
            return (await client.post(path, json=asked)).status_code

        alone = await text()
        paths = ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings")
        async with asyncio.TaskGroup() as group:
            streaming = group.create_task(text())
            failing = [group.create_task(fail(model, path)) for path in paths for model in ("broken", "nope") * 2]
        assert streaming.result() == alone
        assert {each.result() for each in failing} == {400, 404}
    with served.client() as again:
        assert again.get("/health").json()["status"] in {"ok", "busy"}
