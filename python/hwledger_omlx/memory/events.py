"""The samples of an engine as they are taken. The ledgers' own rings are the buffer; a reader has a place in each."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Self

from hwledger_omlx._native import LayerMemory, wait_for_memory_sample
from hwledger_omlx.memory.records import MemoryEvent, read

_LOOK_S = 0.5
"""How long to wait for a sample before looking whether the engine was closed, in seconds."""


class MemoryEvents(Iterator[MemoryEvent]):
    """Samples from now on, of all models of an engine. Ends when the engine is closed. For one thread at a time.

    Args:
        ledgers: those of the models that are loaded now.
        closed: whether the engine was closed.
        buffered: samples of a model that wait for a slow reader, at most.
    """

    def __init__(
        self, ledgers: Callable[[], list[LayerMemory]], closed: Callable[[], bool], *, buffered: int = 256
    ) -> None:
        if buffered < 1:
            raise ValueError(f"buffered must be at least 1, not {buffered}")
        self._ledgers, self._closed, self._buffered = ledgers, closed, buffered
        self._seen = wait_for_memory_sample(0, 0.0)
        self._places: dict[int, tuple[LayerMemory, int]] = {}
        self.dropped = 0
        """Samples that came and went before they were read."""
        for ledger in ledgers():
            self._places[id(ledger)] = (ledger, ledger.samples)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> MemoryEvent:
        """The next sample; waits for it."""
        while (event := self.poll()) is None:
            if self.ended:
                raise StopIteration
            self.wait()
        return event

    @property
    def ended(self) -> bool:
        """Whether the engine was closed."""
        return self._closed()

    def poll(self) -> MemoryEvent | None:
        """The next sample if there is one."""
        for ledger in self._ledgers():
            _, place = self._places.get(id(ledger), (ledger, 0))
            late = max(0, ledger.samples - self._buffered - place)
            said = ledger.event(place + late)
            if said is None:
                self._places[id(ledger)] = (ledger, place)
                continue
            fields = json.loads(said)
            fields["missed"] += late
            event = read(MemoryEvent, fields)
            self.dropped += event.missed
            self._places[id(ledger)] = (ledger, event.number + 1)
            return event
        return None

    def wait(self) -> None:
        """Returns when a sample was taken, or after a while."""
        self._seen = wait_for_memory_sample(self._seen, _LOOK_S)


class AsyncMemoryEvents(AsyncIterator[MemoryEvent]):
    """The same for asyncio.

    Args:
        events: what to read.
    """

    def __init__(self, events: MemoryEvents) -> None:
        self._events = events

    @property
    def dropped(self) -> int:
        """Samples that came and went before they were read."""
        return self._events.dropped

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MemoryEvent:
        """The next sample; waits for it."""
        while (event := self._events.poll()) is None:
            if self._events.ended:
                raise StopAsyncIteration
            await asyncio.to_thread(self._events.wait)
        return event
