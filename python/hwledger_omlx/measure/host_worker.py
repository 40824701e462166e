"""The processes of `bench host` with an engine behind HTTP or JSON-RPC: each serves a model, with its tokens stamped.

Behind HTTP it runs the consumer against itself. As a program, with the arguments MODEL, STAMPS and maybe FORK, it
speaks JSON-RPC on its standard streams to the consumer that started it, and leaves the stamps in the file STAMPS.

In: `{"consumer": [...]}`, the consumer's command line without what only this process knows.
Out: what the consumer printed, with the engine's own stamps beside it.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hwledger_omlx as hw
from hwledger_omlx.errors import HarnessError
from hwledger_omlx.fork.load import load
from hwledger_omlx.measure import token_stamps
from hwledger_omlx.serve.server import Server
from hwledger_omlx.serve.settings import ServerSettings

_TIMEOUT_S = 600.0


@contextmanager
def open_server(options: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """Options: `model` (folder), `fork` (folder or null)."""
    engine = hw.EngineConfig(model=None, cache=None, fork=options["fork"], ledger=False)
    with Server(ServerSettings(engine=engine, models=[options["model"]], port=0)) as server:
        token_stamps.install()
        yield lambda request: _one(server, request)


def _one(server: Server, request: dict[str, Any]) -> dict[str, Any]:
    (model,) = server.model_ids
    address = server.url.removeprefix("http://")
    token_stamps.take()
    told = consume([*request["consumer"], "--model", model, "--http", address])
    return {**told, "engine": token_stamps.take()}


def consume(command: list[str]) -> dict[str, Any]:
    """What the consumer printed.

    Raises:
        HarnessError: it failed; with what it said.
    """
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if ended.returncode:
        raise HarnessError(f"the consumer ended with code {ended.returncode}: {ended.stderr.strip()[-2000:]}")
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def _speak_rpc(model: str, stamps: str, *fork: str) -> int:
    from hwledger_omlx.rpc import RpcSettings, serve

    engine = hw.EngineConfig(model=None, cache=None, fork=fork[0] if fork else None, ledger=False)
    load(None if engine.fork is None else Path(engine.fork))
    token_stamps.install()
    try:
        return serve(RpcSettings(engine=engine, models=[model]))
    finally:
        Path(stamps).write_text(json.dumps(token_stamps.take()), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(_speak_rpc(*sys.argv[1:]))
