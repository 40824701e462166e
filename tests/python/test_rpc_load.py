"""What clients do to `hwledger-omlx rpc`: garbage between streams, many requests at once, a death in the middle."""

import json
import random
from pathlib import Path
from typing import Any

import jsonrpcclient
import psutil

import hwledger_omlx as hw
from rpc_client import Client
from serving import until

LONG = {"prompt": "on and on", "max_tokens": 400, "temperature": 0}


def test_garbage_between_the_tokens_of_two_streams_spoils_neither(client: Client) -> None:
    before = client.faults
    alone = client.result("generate", **LONG, stream=False)["text"]
    client.send(*(jsonrpcclient.request("generate", {**LONG, "request_id": name}, id=name) for name in "ab"))
    garbage = [b"\xff\xfe", b"{", b"[]", b'"text"', b'{"jsonrpc":"1.0","method":"health"}', b"\x00" * 9]
    for line in garbage:
        # Each of them while both are under way.
        client.until(lambda said: said.get("method") == "token")
        client.send_bytes(line + b"\n")
    assert {client.answer(name).result["completion_tokens"] for name in "ab"} == {400}
    assert client.text("a") == client.text("b") == alone
    assert client.faults - before == len(garbage)
    assert client.result("generate", prompt="a", max_tokens=2)["completion_tokens"] == 2


def test_an_id_that_is_running_is_refused_and_the_running_one_goes_on(client: Client) -> None:
    client.send(jsonrpcclient.request("generate", {**LONG, "request_id": "same"}, id="first"))
    client.until(lambda said: said.get("method") == "token")
    refused = client.call("generate", {**LONG, "request_id": "same"})
    assert isinstance(refused, jsonrpcclient.Error)
    assert (refused.code, refused.data["class"]) == (-32000, "RequestError")
    assert "'same' is running" in refused.message
    assert client.answer("first").result["completion_tokens"] == 400
    # Its own stream alone is under its id; and the id is free again.
    assert client.text("same") == client.result("generate", **LONG, stream=False)["text"]
    assert client.result("generate", **{**LONG, "max_tokens": 2}, request_id="same")["completion_tokens"] == 2


def test_a_hundred_requests_at_once_cancelled_at_random_leave_nothing(client: Client) -> None:
    process = psutil.Process(client.process.pid)
    drawn = random.Random(6)

    def work(names: list[str]) -> set[str]:
        """All at once; the first half is sent before anything is read. The reasons why they stopped."""
        client.stop_reading()
        cancels = []
        for number, name in enumerate(names):
            asked = {"prompt": f"{name} on and on", "max_tokens": 60, "temperature": 0, "request_id": name}
            client.send(jsonrpcclient.request("generate", asked, id=name))
            if number % 2:
                cancels.append(f"cancel {name}")
                client.send(jsonrpcclient.request("cancel", {"request_id": drawn.choice(names)}, id=cancels[-1]))
            if number == len(names) // 2:
                until(client.is_behind, "the pipe is full")
                client.read_on()
        assert {client.answer(each).result["cancelled"] for each in cancels} == {True, False}
        answers = [client.answer(name) for name in names]
        assert [each for each in answers if isinstance(each, jsonrpcclient.Error)] == []
        return {each.result["stopped_reason"] for each in answers}

    def left() -> tuple[Any, ...]:
        saves = client.result("cache.stats")["stats"]["saves"]
        waiting = saves["queue_bytes"], saves["backlog_bytes"]
        return client.result("health")["status"], waiting, process.num_threads(), process.num_fds()

    # Threads of pools come when they are first needed, so that a round may leave some; what leaks comes each time.
    seen: list[tuple[Any, ...]] = []
    while len(seen) < 2 or seen[-1] != seen[-2]:
        assert len(seen) < 5, seen
        assert work([f"{len(seen)}-{number}" for number in range(100)]) >= {"length", "cancelled"}
        until(lambda: left()[:2] == ("ok", (0, 0)), "it is at rest")
        seen.append(left())
    assert client.result("memory_report")["kv_cache_mb"] == 0


def test_a_client_that_is_killed_within_a_line_ends_it_in_order(tiny_model: Path, tmp_path: Path) -> None:
    client = Client(tiny_model, "--cache-dir", tmp_path / "kv", home=tmp_path / "home", relayed=True)
    try:
        client.result("generate", prompt="hello " * 60, max_tokens=4, temperature=0)
        for name in "ab":
            client.send(jsonrpcclient.request("generate", {**LONG, "max_tokens": 3900, "request_id": name}, id=name))
        client.until(lambda said: said.get("method") == "token")
        client.send_bytes(b'{"jsonrpc":"2.0","method":"gen')
        client.until(lambda said: said.get("method") == "token")
        client.die()
        code, said = client.ended()
        # Which of its two ends it misses first is chance: the answers that nobody reads are an error then too.
        assert code == 2
        (line,) = said.splitlines()
        assert line.startswith("hwledger-omlx: the client ")
    finally:
        client.kill()
    opened = hw.PagedCache().open(tmp_path / "kv")
    assert json.loads(opened.stats())["tokens"] > 60
    opened.close()
