"""The process of `bench host` with an engine behind HTTP: serves a model, and runs the consumer against itself.

In: `{"consumer": [...]}`, the consumer's command line without what only this process knows.
Out: what the consumer printed, with the engine's own stamps beside it.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hwledger_omlx as hw
from hwledger_omlx.errors import HarnessError
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
