"""When each token left the engine: stamps on the outputs of the fork's engine, before any surface has touched them.

The clock is the system's monotonic one, so that another process of the machine can take the time of its arrival. For
`bench host` alone: nothing of it is in place otherwise.
"""

import functools
import time
from collections.abc import AsyncGenerator
from typing import Any

from hwledger_omlx.engine.upstream import attribute, module

Stamp = tuple[int, int, int]
"""Tokens and characters that the request had by then, and nanoseconds of `CLOCK_MONOTONIC`."""

_stamps: list[Stamp] = []


def install() -> None:
    """Stamps every output from now on, once."""
    core = attribute(module("engine_core"), "AsyncEngineCore")
    original = attribute(core, "stream_outputs")
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    async def stamped(self: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any]:
        tokens = characters = 0
        stream = original(self, *args, **kwargs)
        try:
            async for output in stream:
                tokens += len(output.new_token_ids)
                characters += len(output.new_text)
                _stamps.append((tokens, characters, time.clock_gettime_ns(time.CLOCK_MONOTONIC)))
                yield output
        finally:
            await stream.aclose()

    core.stream_outputs = stamped


def take() -> list[Stamp]:
    """The stamps since the last time, in order."""
    taken = list(_stamps)
    _stamps.clear()
    return taken
