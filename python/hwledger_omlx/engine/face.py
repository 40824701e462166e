"""What the faces of a session have in common: how they are opened, what they tell of it, and their end when dropped."""

import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack

from hwledger_omlx.cache.cache import Cache
from hwledger_omlx.cache.settings import PagedCache
from hwledger_omlx.engine.config import CacheKind, EngineConfig
from hwledger_omlx.engine.exit import close_in_background
from hwledger_omlx.engine.kv_policy import KvSetting
from hwledger_omlx.engine.model_folder import ModelFolder
from hwledger_omlx.engine.session import Session
from hwledger_omlx.fork.locate import Fork
from hwledger_omlx.fork.verify import HookReport
from hwledger_omlx.memory.ledger import Ledger


class EngineSettings(TypedDict, total=False):
    """The keyword arguments of `Engine` and `AsyncEngine`; see `EngineConfig`."""

    cache_dir: str | Path | None
    cache: CacheKind | PagedCache | Mapping[str, Any] | None
    fork: str | Path | None
    kv: KvSetting
    model_kv: Mapping[str, KvSetting]
    ledger: bool | str | Path
    max_concurrent_requests: int
    progress: bool | None


class Face:
    """Holds a session and closes it when nobody holds the face any more."""

    def __init__(self, model: str | Path, **settings: Unpack[EngineSettings]) -> None:
        self._session = Session(EngineConfig(model=model, **settings))
        weakref.finalize(self, close_in_background, self._session, os.getpid()).atexit = False

    @property
    def fork(self) -> Fork:
        """The fork in use: its distribution, version and path."""
        return self._session.fork.fork

    @property
    def hooks(self) -> tuple[HookReport, ...]:
        """What became of each hook of the patch series in this process."""
        return self._session.fork.hooks

    @property
    def models(self) -> dict[str, ModelFolder]:
        """The loaded models by id."""
        return self._session.models

    def kv_policy(self, model: str | None = None) -> str:
        """The KV policy of new requests, layer by layer where it was solved for.

        Args:
            model: id of a loaded model; None for the one that the engine was opened with.

        Raises:
            ModelError: no model of that id is loaded.
        """
        return self._session.kv_policy_of(model)

    @property
    def cache(self) -> Cache:
        """The KV cache: its statistics, and what can be done with it."""
        return self._session.cache

    @property
    def ledger(self) -> Ledger:
        """The requests of this engine and of others with the same database; off where `ledger=False`, and says so."""
        return self._session.ledger

    @property
    def cache_dir(self) -> Path | None:
        """Folder of the KV cache; None where there is none."""
        return self._session.cache_dir

    def __repr__(self) -> str:
        state = "closed" if self._session.closed else ", ".join(self.models) or "not started"
        return f"<{type(self).__name__} {state}>"
