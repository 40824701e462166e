"""What a server may be told, and the rules of where it may listen."""

import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwledger_omlx.engine.config import EngineConfig
from hwledger_omlx.errors import EngineError, ModelError, RequestError

DEFAULT_PORT = 8000
_BACKLOG = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkSettings:
    """What is said of the fork's own settings. What is not said is left to its admin page, which is weaker."""

    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of requests, by the fork's names."""
    sse_keepalive_mode: str | None = None
    memory_guard_tier: str | None = None
    mcp_config: str | None = None
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of single models, by id and by the fork's names."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where it was said, by name, such as `models.notes.temperature`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of one server."""

    engine: EngineConfig
    """Of the engine under it; its `model` is None, for `models` says which are loaded."""
    models: Sequence[str | Path] = ()
    """Folders or Hugging Face ids to load before anything is served; the first is the default of requests."""
    model_dirs: Sequence[Path] = field(default=())
    """Folders of models that are loaded when a request names one of them."""
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    """0 for any that is free."""
    api_key: str | None = None
    """What requests must carry; None for the key of the admin page's settings, if there is one."""
    shutdown_s: float = 20.0
    """How long answers under way may take to end once the server is told to stop."""
    stuck_after_s: float = 8.0
    """How long requests may wait for a sign of life before the server calls itself stuck."""
    restart_after_s: float = 60.0
    """How long it may be stuck before it asks its supervisor, where it has one, for a new start."""
    fork: ForkSettings = field(default_factory=ForkSettings)
    """Settings of the fork's own server and models."""

    def __post_init__(self) -> None:
        if self.engine.model is not None:
            raise EngineError("a server's models are named in models=, not in the engine's settings")
        if not 0 <= self.port <= 65535:
            raise EngineError(f"port must be from 0 to 65535, not {self.port}")
        for name in ("shutdown_s", "stuck_after_s", "restart_after_s"):
            if not getattr(self, name) > 0:
                raise EngineError(f"{name} must be a number of seconds above 0, not {getattr(self, name)!r}")
        for folder in self.model_dirs:
            if not folder.is_dir():
                raise ModelError(f"no folder of models at {folder}: there is no such folder")

    def check_key(self, key: str | None) -> None:
        """Everybody who reaches the port may use the models and the admin page, unless there is a key.

        Raises:
            RequestError: the server would listen beyond this machine without one.
        """
        if not key and not self.is_local:
            raise RequestError(
                f"listening on {self.host or 'all addresses'} lets other machines in, so it takes an API key: "
                "give --api-key (or HWLEDGER_OMLX_API_KEY), or listen on 127.0.0.1"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return bool(self.host) and all(
            ipaddress.ip_address(address.partition("%")[0]).is_loopback for _, address in self._addresses()
        )

    def listen(self) -> socket.socket:
        """A socket that listens; connections wait in it until they are served.

        Raises:
            EngineError: the port is taken, or the host none of this machine.
        """
        family, address = self._addresses()[0]
        # The protocol is named, for asyncio asks for it before it has TCP send without delay, as a stream must.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            if os.name == "posix":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((address, self.port))
            listening.listen(_BACKLOG)
        except OSError as error:
            listening.close()
            raise EngineError(
                f"cannot listen on {self.host}, port {self.port}: {error.strerror or error}; "
                "choose another --port or --host"
            ) from error
        return listening

    def _addresses(self) -> list[tuple[socket.AddressFamily, str]]:
        try:
            found = socket.getaddrinfo(self.host or None, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            raise EngineError(f"cannot listen on {self.host!r}: {error}; give an address of this machine") from error
        return [(family, str(address[0])) for family, *_, address in found]
