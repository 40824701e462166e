"""A configuration with the origin of each value, and what an engine and a server are told by it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from hwledger_omlx.cache.settings import PagedCache
from hwledger_omlx.engine import kv_policy
from hwledger_omlx.engine.config import EngineConfig
from hwledger_omlx.engine.kv_policy import KvSetting
from hwledger_omlx.errors import ConfigError, Error
from hwledger_omlx.models import NOTES

if TYPE_CHECKING:
    from hwledger_omlx.serve.settings import ServerSettings

Takes = Literal["now", "loading", "restart"]

_SECRET = {("server", "api_key")}
_PASSWORD = re.compile(r"(?<=://)[^/@]+(?=@)")
_HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class Entry:
    """One value."""

    path: tuple[str, ...]
    name: str
    """The path as TOML writes it."""
    value: Any
    """None for what is found out when it is needed, or left to the fork."""
    origin: str
    """`default`, such as `hwledger.toml:12`, a variable, or a flag."""
    takes: Takes
    """When a change counts: at once, when the model is next loaded, or when the program is next started."""

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """From the core's JSON."""
        return cls(**{**fields, "path": tuple(fields["path"])})

    @property
    def shown(self) -> Any:
        """The value as it may be shown: without keys and passwords."""
        if self.value is None:
            return None
        if self.path in _SECRET:
            return _HIDDEN
        return _PASSWORD.sub(_HIDDEN, self.value) if isinstance(self.value, str) else self.value


@dataclass(frozen=True, slots=True)
class Config:
    """What a program of ours is configured with."""

    file: Path | None
    """The file that was read; None where there was none."""
    entries: tuple[Entry, ...]

    def entry(self, name: str) -> Entry:
        """The setting of that name, such as `server.port`."""
        return next(each for each in self.entries if each.name == name)

    def value(self, name: str) -> Any:
        """Its value."""
        return self.entry(name).value

    def section(self, name: str) -> dict[str, Any]:
        """The values of a section that have one."""
        found = {each.path[1]: each.value for each in self.entries if each.path[0] == name and len(each.path) == 2}
        return {key: value for key, value in found.items() if value is not None}

    @property
    def listed_models(self) -> list[str | Path]:
        """Models to load at the start."""
        listed = self.value("server.models")
        return [Path(each) if each.startswith(("/", "~", ".")) else each for each in listed]

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """The sections of models by id: what is said in them."""
        sections: dict[str, dict[str, Any]] = {}
        for each in self.entries:
            if each.path[0] == "models":
                sections.setdefault(each.path[1], {})[each.path[2]] = each.value
        return sections

    def keeping(self, other: "Config", names: set[str]) -> "Config":
        """This configuration with those settings as another one has them."""
        kept = {each.name: each for each in other.entries}
        return replace(self, entries=tuple(kept[each.name] if each.name in names else each for each in self.entries))

    def engine(self) -> EngineConfig:
        """What an engine is opened with, its models aside.

        Raises:
            ConfigError: a policy is none, its file cannot be read, or settings do not go together.
        """
        cache = self.section("cache")
        kind = cache.pop("kind")
        folder = cache.pop("dir", None)
        try:
            return EngineConfig(
                model=None,
                cache=PagedCache(**cache) if kind == "paged" else "fork" if kind == "fork" else None,
                cache_dir=folder,
                fork=self.value("engine.fork"),
                kv=self._kv(self.entry("engine.kv")),
                model_kv={each.path[1]: self._kv(each) for each in self.entries if _is_model_kv(each)},
                ledger=self.value("engine.ledger"),
                max_concurrent_requests=self.value("engine.max_concurrent_requests"),
            )
        except ConfigError:
            raise
        except Error as error:
            raise ConfigError(f"{self.file or 'the configuration'}: {error}") from error

    def server(self) -> "ServerSettings":
        """What a server is started with.

        Raises:
            ConfigError: as `engine`.
            Error: there is no such folder of models, or another setting cannot be.
        """
        from hwledger_omlx.serve.settings import ForkSettings, ServerSettings  # the engine does not need it

        server = self.section("server")
        return ServerSettings(
            engine=self.engine(),
            models=self.listed_models or ([] if server["model_dirs"] else [NOTES]),
            model_dirs=tuple(Path(each).expanduser() for each in server["model_dirs"]),
            host=server["host"],
            port=server["port"],
            api_key=server.get("api_key"),
            shutdown_s=server["shutdown_seconds"],
            stuck_after_s=server["stuck_after_seconds"],
            restart_after_s=server["restart_after_seconds"],
            fork=ForkSettings(
                sampling=self.section("sampling"),
                sse_keepalive_mode=server.get("sse_keepalive_mode"),
                memory_guard_tier=server.get("memory_guard_tier"),
                mcp_config=server.get("mcp_config"),
                models={
                    model_id: {name: value for name, value in said.items() if name != "kv"}
                    for model_id, said in self.models.items()
                },
                origins={each.name: each.origin for each in self.entries},
            ),
        )

    def _kv(self, entry: Entry) -> KvSetting:
        try:
            return kv_policy.parse(kv_policy.named(entry.value))
        except Error as error:
            raise ConfigError(f"{entry.origin}: {entry.name}: {error}") from error


def _is_model_kv(entry: Entry) -> bool:
    return entry.path[0] == "models" and entry.path[2] == "kv"
