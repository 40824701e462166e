"""What the methods work on: the engine, its health, the connection, and the calls under way."""

import contextlib
import importlib.metadata
import threading
import time
from pathlib import Path

from hwledger_omlx._native import RpcConnection
from hwledger_omlx.engine.activity import activity
from hwledger_omlx.engine.session import Session
from hwledger_omlx.rpc.calls import Calls
from hwledger_omlx.rpc.memory_stream import MemoryStream
from hwledger_omlx.rpc.settings import RpcSettings
from hwledger_omlx.serve.heartbeat import Heartbeat

_LOOKS_A_LIMIT = 12
_MOST_S_BETWEEN_LOOKS = 5.0


class Service:
    """One client's view of one started session.

    Args:
        session: the engine.
        connection: to the client.
        settings: the server's.
    """

    def __init__(self, session: Session, connection: RpcConnection, settings: RpcSettings) -> None:
        self.session = session
        self.connection = connection
        self.settings = settings
        self.calls = Calls(settings.max_calls)
        self.memory = MemoryStream(session, connection)
        self.mlx_version = importlib.metadata.version("mlx")
        self._began_s = time.monotonic()
        self._heartbeat = Heartbeat(lambda: session.loaded, settings.stuck_after_s)
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="hwledger-rpc-heartbeat", daemon=True).start()

    def close(self) -> None:
        """Ends what was begun here, the engine apart."""
        self.memory.stop()
        self._over.set()

    def _watch(self) -> None:
        # On a thread that is none of the engine's, so that it goes on where the engine hangs.
        pause_s = min(_MOST_S_BETWEEN_LOOKS, self.settings.stuck_after_s / _LOOKS_A_LIMIT)
        while not self._over.wait(pause_s):
            self._heartbeat.look()

    @property
    def uptime_s(self) -> float:
        """Since the client was first listened to."""
        return time.monotonic() - self._began_s

    def status(self) -> str:
        """`ok`, `busy` or `stuck`."""
        if self._heartbeat.stuck():
            return "stuck"
        states = (activity(model.placed) for model in self.session.loaded.values())
        return "busy" if any(state is not None and state.requests for state in states) else "ok"

    def model_id(self, named: str | None) -> str | None:
        """The id of a loaded model that the client names as it had it loaded: by id, by folder or by hub id.

        What names none is given back as it is; the engine says then what is loaded.
        """
        models = self.session.models
        if named is None or named in models:
            return named
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # no path at all
            path = Path(named).expanduser().resolve()
            for model_id, folder in models.items():
                if folder.path == path:
                    return model_id
        last = named.rsplit("/", 1)[-1]
        return last if named.count("/") == 1 and last in models else named
