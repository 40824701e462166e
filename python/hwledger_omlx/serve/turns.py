"""Has requests wait for their turn outside of the fork. Knows neither what they ask nor who works them off.

The fork's scheduler refuses a request while 32 others wait (four times the batch, where that is more), and where the
answer is a stream it says so after `200 OK`, so that no client tries again. Who waits here waits without such a limit,
and costs a connection.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.types import Receive


@dataclass(slots=True)
class _Gate:
    places: asyncio.Semaphore
    users: int = 0


class Turns:
    """As many at once as there are places, model by model, in the order in which they came.

    Args:
        most: of one model at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._gates: dict[str, _Gate] = {}

    def waiting(self) -> dict[str, int]:
        """Requests that wait for their turn, by model, where there are any. On any thread."""
        users = {model: gate.users for model, gate in self._gates.copy().items()}
        return {model: count - self._most for model, count in users.items() if count > self._most}

    @contextlib.asynccontextmanager
    async def turn(self, model: str, receive: Receive) -> AsyncIterator[bool]:
        """Waits for a place and holds it. Gives False, and no place, where the client has left meanwhile.

        Args:
            model: its id.
            receive: of a request whose body was read, so that what comes next is that its client has left.
        """
        gate = self._gates.setdefault(model, _Gate(asyncio.Semaphore(self._most)))
        gate.users += 1
        try:
            if not gate.places.locked():
                await gate.places.acquire()
            elif not await _acquired(gate.places, receive):
                yield False
                return
            try:
                yield True
            finally:
                gate.places.release()
        finally:
            gate.users -= 1
            if not gate.users:
                del self._gates[model]


async def _acquired(places: asyncio.Semaphore, receive: Receive) -> bool:
    place, left = asyncio.ensure_future(places.acquire()), asyncio.ensure_future(receive())
    has_come = False
    try:
        await asyncio.wait({place, left}, return_when=asyncio.FIRST_COMPLETED)
        has_come = place.done() and not left.done()
    finally:
        left.cancel()
        # What cannot be cancelled any more holds a place that nobody will use.
        if not has_come and not place.cancel():
            places.release()
    return has_come
