"""What the methods work on: the engine, its health, the connection, and the calls under way."""

import contextlib
import importlib.metadata
import math
import time
from collections.abc import Callable
from pathlib import Path

from hwledger_omlx._native import RpcConnection
from hwledger_omlx.engine.activity import is_busy
from hwledger_omlx.engine.session import Session
from hwledger_omlx.rpc.calls import Calls
from hwledger_omlx.rpc.memory_stream import MemoryStream
from hwledger_omlx.rpc.settings import RpcSettings
from hwledger_omlx.serve.heartbeat import Heartbeat
from hwledger_omlx.serve.watch import Watch


class Service:
    """One client's view of one started session.

    Args:
        session: the engine.
        connection: to the client.
        settings: gives the server's, which may change.
        heartbeat: of the engine.
    """

    def __init__(
        self, session: Session, connection: RpcConnection, settings: Callable[[], RpcSettings], heartbeat: Heartbeat
    ) -> None:
        self.session = session
        self.connection = connection
        self.calls = Calls(settings().max_calls)
        self.memory = MemoryStream(session, connection)
        self.mlx_version = importlib.metadata.version("mlx")
        self._settings = settings
        self._began_s = time.monotonic()
        self._heartbeat = heartbeat
        self._watch = Watch(heartbeat, restart_after_s=lambda: math.inf)
        self._watch.start()

    def close(self) -> None:
        """Ends what was begun here, the engine apart."""
        self.memory.stop()
        self._watch.stop()

    @property
    def settings(self) -> RpcSettings:
        """The server's, as they are now."""
        return self._settings()

    @property
    def uptime_s(self) -> float:
        """Since the client was first listened to."""
        return time.monotonic() - self._began_s

    def status(self) -> str:
        """`ok`, `busy` or `stuck`."""
        if self._heartbeat.stuck():
            return "stuck"
        loaded = self.session.loaded_of_any_kind.values()
        return "busy" if any(is_busy(model.placed) for model in loaded) else "ok"

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
