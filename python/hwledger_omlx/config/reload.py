"""Loads the configuration anew while an engine runs: what may change changes at once, and no stream notices.

Knows what of the settings goes where; nothing of how they are told (a signal, an HTTP request, JSON-RPC).
"""

import asyncio
import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwledger_omlx import logs
from hwledger_omlx.config.configuration import Config, Entry
from hwledger_omlx.config.uses import counts_for_rpc
from hwledger_omlx.engine import model_folder
from hwledger_omlx.engine.activity import is_busy
from hwledger_omlx.engine.session import Session
from hwledger_omlx.errors import Error

if TYPE_CHECKING:
    from hwledger_omlx.rpc.server import RpcServer
    from hwledger_omlx.serve.server import Server
    from hwledger_omlx.serve.settings import ServerSettings

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that is another now."""

    name: str
    before: Any
    after: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What a reload has done."""

    file: str | None
    applied: tuple[Change, ...]
    """In force."""
    at_next_load: tuple[Change, ...]
    """In force for the model when it is next loaded."""
    needs_restart: tuple[Change, ...]
    """Not in force: they cannot be changed while the program runs."""
    loaded: tuple[str, ...] = ()
    """Models that are there now."""
    leaving: tuple[str, ...] = ()
    """Models that are unloaded when their answers are out."""
    unused: tuple[Change, ...] = ()
    """They count for HTTP alone, which this program does not speak."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        told = [f"{each.name} = {each.after!r}" for each in (*self.applied, *self.at_next_load)]
        told += [f"{each.name} needs a restart" for each in self.needs_restart]
        told += [f"{each.name} counts for HTTP alone" for each in self.unused]
        told += [f"{each} loaded" for each in self.loaded] + [f"{each} leaves" for each in self.leaving]
        return "; ".join(told) or "nothing has changed"


class LiveConfig:
    """The configuration in force.

    Args:
        config: what it was started with.
        session: the running engine.
        load: gives the configuration as it is said now.
        server: what serves the engine over HTTP.
        rpc: what serves it over JSON-RPC, where no HTTP server does.
    """

    def __init__(
        self,
        config: Config,
        session: Session,
        load: Callable[[], Config],
        server: "Server | None" = None,
        rpc: "RpcServer | None" = None,
    ) -> None:
        self.config = config
        self._session = session
        self._load = load
        self._server = server
        self._rpc = rpc
        self._one = threading.Lock()
        self._settings = config.server()
        self._listed = {model_folder.locate(each).model_id for each in self._models_of(config, self._settings)}
        # Changed on the engine's loop only.
        self._leaving: set[str] = set()
        self._unloading: dict[str, asyncio.Task[None]] = {}

    def reload(self) -> Changes:
        """Applies what has changed, all of it or nothing. Waits for models to load; not for the engine's loop.

        Raises:
            ConfigError: something cannot be; the message has where it was said.
            Error: a model cannot be loaded, or cannot take its KV policy. Nothing has changed then.
        """
        with self._one:
            return self._reload()

    def _reload(self) -> Changes:
        old, said = self.config, self._load()
        changed = _changed(old, said)
        waiting = {each.name for each in changed if each.takes == "restart"}
        new = said.keeping(old, waiting)
        names = {each.name for each in changed} - waiting
        settings, before = new.server(), self._settings
        session = self._session
        folders = {folder.model_id: folder for folder in map(model_folder.locate, self._models_of(new, settings))}
        with contextlib.ExitStack() as undo:
            if self._server is not None:
                undo.callback(self._server.offer)  # what is there then
            stayed = session.run(self._stay(set(folders)))
            undo.callback(self._let_leave, stayed)
            if self._server is not None and names:
                undo.callback(self._server.foretell, before)
                self._server.foretell(settings)
            # What was listed before, and is gone, somebody has unloaded.
            missing = folders.keys() - session.models.keys() - self._listed
            added = [each for model_id, each in folders.items() if model_id in missing]
            for folder in added:
                undo.callback(session.unload, session.load(folder.path))
            if self._server is not None and names:
                self._server.reconfigure(settings)
                undo.callback(self._server.reconfigure, before)
            if any(name == "engine.kv" or (name.startswith("models.") and name.endswith(".kv")) for name in names):
                session.run(session.set_kv_policies(settings.engine.kv_policy, settings.engine.kv_policies))
                undo.callback(
                    lambda: session.run(session.set_kv_policies(before.engine.kv_policy, before.engine.kv_policies))
                )
            paged = settings.engine.paged_cache
            if paged is not None and session.cache.kind == "paged" and any(each.startswith("cache.") for each in names):
                session.cache.set_limits(paged)
            undo.pop_all()
        session.config = dataclasses.replace(settings.engine, model=session.config.model)
        if self._rpc is not None:
            self._rpc.reconfigure(settings)
        if "log.level" in names:
            logs.configure(level=new.value("log.level"))
        leaving = self._let_leave(self._listed - folders.keys())
        self.config, self._settings, self._listed = new, settings, set(folders)
        shown = {each.name: each for each in old.entries}

        def told(entries: Iterable[Entry]) -> tuple[Change, ...]:
            return tuple(
                Change(each.name, shown[each.name].shown if each.name in shown else None, each.shown, each.origin)
                for each in entries
            )

        used = [each for each in changed if self._server is not None or counts_for_rpc(each)]
        return Changes(
            file=None if said.file is None else str(said.file),
            applied=told(each for each in used if each.takes == "now"),
            at_next_load=told(each for each in used if each.takes == "loading"),
            needs_restart=told(each for each in used if each.takes == "restart"),
            unused=told(each for each in changed if each not in used),
            loaded=tuple(folder.model_id for folder in added),
            leaving=leaving,
        )

    def _models_of(self, config: Config, settings: "ServerSettings") -> Sequence[str | Path]:
        """The models that are to be loaded; an engine without a server is told by others."""
        if self._server is not None:
            return settings.models
        return [] if self._rpc is None else config.listed_models

    def _let_leave(self, gone: set[str]) -> tuple[str, ...]:
        leaving = tuple(sorted(gone & self._session.models.keys()))
        for model_id in leaving:
            self._session.begin(self._unload_idle(model_id))
        return leaving

    async def _stay(self, model_ids: set[str]) -> set[str]:
        """Has those that were to leave stay, and waits for those that are too far gone. Gives the former."""
        stayed = self._leaving & model_ids - self._unloading.keys()
        self._leaving -= model_ids
        if gone := [self._unloading[each] for each in model_ids & self._unloading.keys()]:
            await asyncio.wait(gone)
        return stayed

    async def _unload_idle(self, model_id: str) -> None:
        """Unloads a model at a moment when it has no requests, and has nobody find it any more."""
        self._leaving.add(model_id)
        while model_id in self._leaving and (model := self._session.loaded_of_any_kind.get(model_id)) is not None:
            if not is_busy(model.placed):
                self._leaving.discard(model_id)
                self._unloading[model_id] = asyncio.ensure_future(asyncio.to_thread(self._unload, model_id))
                await self._unloading[model_id]
                del self._unloading[model_id]
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    def _unload(self, model_id: str) -> None:
        try:
            self._session.unload(model_id)
            if self._server is not None:
                self._server.offer()
        except Error as error:
            # The engine was closed, or somebody else has unloaded it.
            _log.debug("%s did not have to be unloaded: %s", model_id, error)

    def reload_and_tell(self) -> None:
        """As `reload`, for a signal: what comes of it is logged, and trouble leaves everything as it was."""
        try:
            changes = self.reload()
        except Error as error:
            _log.error("the configuration stays as it was: %s", error)
        else:
            _log.warning("the configuration was loaded anew: %s", changes)

    def reload_as_json(self) -> Mapping[str, Any]:
        """As `reload`, told in what JSON has."""
        return self.reload().to_dict()


def _changed(old: Config, new: Config) -> list[Entry]:
    """The settings that have another value, as they are said now; what is said no more has none."""
    before = {each.name: each for each in old.entries}
    now = {each.name: each for each in new.entries}
    unsaid = (dataclasses.replace(each, value=None, origin="default") for each in old.entries if each.name not in now)
    every = [*new.entries, *unsaid]
    return [each for each in every if each.name not in before or before[each.name].value != each.value]
