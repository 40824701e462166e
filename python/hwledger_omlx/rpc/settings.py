"""What a JSON-RPC server may be told."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwledger_omlx.engine.config import EngineConfig
from hwledger_omlx.engine.request_defaults import RequestDefaults
from hwledger_omlx.errors import EngineError


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcSettings:
    """Settings of one server."""

    engine: EngineConfig
    """Of the engine under it; its `model` is None, for `models` says which are loaded."""
    models: Sequence[str | Path] = ()
    """Folders or Hugging Face ids to load before anything is read; the first is the default of requests."""
    defaults: RequestDefaults = field(default_factory=RequestDefaults)
    """What a `generate` gets that does not say."""
    shutdown_s: float = 20.0
    """How long calls under way may take to end once nothing more comes, or the server is told to stop."""
    stuck_after_s: float = 8.0
    """How long requests may wait for a sign of life before `health` says stuck."""
    max_calls: int = 256
    """Most calls under way; further ones are refused."""
    message_bytes: int = 16 * 2**20
    """Longest message that is read."""
    queue_bytes: int = 2**20
    """While more waits for the client to read it, nothing is read from it."""
    reload: Callable[[], Mapping[str, Any]] | None = None
    """Reads the configuration anew, applies it, and gives what changed; None where there is none to read."""

    def __post_init__(self) -> None:
        if self.engine.model is not None:
            raise EngineError("a server's models are named in models=, not in the engine's settings")
        for name in ("shutdown_s", "stuck_after_s"):
            if not getattr(self, name) > 0:
                raise EngineError(f"{name} must be a number of seconds above 0, not {getattr(self, name)!r}")
        for name in ("max_calls", "message_bytes", "queue_bytes"):
            if getattr(self, name) < 1:
                raise EngineError(f"{name} must be at least 1, not {getattr(self, name)!r}")
