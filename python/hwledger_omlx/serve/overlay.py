"""Our configuration over the settings that the fork's admin page keeps: it counts, and is never written into them.

What the page's user sets of what the configuration says too, is kept, and counts once that says it no more. Beside
`app`, the place of `serve/` that knows names of the fork's settings.
"""

import contextlib
import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hwledger_omlx.engine import upstream
from hwledger_omlx.errors import ConfigError
from hwledger_omlx.serve.settings import ForkSettings, ServerSettings

_ONLY_AT_WORK = "force_sampling"
"""The one default of requests that the fork does not keep in its file."""


@dataclasses.dataclass(slots=True)
class _Put:
    owner: Any
    name: str
    stored: Any
    ours: Any


class Overlay:
    """Over the fork's `GlobalSettings`, all of one process.

    Args:
        settings: as read from the page's file.
        wanted: the server's.
    """

    def __init__(self, settings: Any, wanted: ServerSettings) -> None:
        self._settings = settings
        self._puts: list[_Put] = []
        self._state: Any = None
        self._sampling: Mapping[str, Any] = {}
        save: Callable[..., None] = upstream.attribute(settings, "save")

        def save_stored(*args: Any, **kwargs: Any) -> None:
            with self._taken_back():
                save(*args, **kwargs)
            self._tell_state()

        settings.save = save_stored
        self.put(wanted)

    def put(self, wanted: ServerSettings) -> None:
        """Has these count, and what was put before no more.

        Raises:
            ForkError: this fork has no such setting.
        """
        fork = wanted.fork
        said: dict[tuple[str, str], Any] = {("sampling", name): value for name, value in fork.sampling.items()}
        said["model", "model_dirs"] = [str(folder.resolve()) for folder in wanted.model_dirs] or None
        # It ends with the process: in the page's file it would be asked for by servers that were given none.
        said["auth", "api_key"] = wanted.api_key
        said["server", "sse_keepalive_mode"] = fork.sse_keepalive_mode
        said["memory", "memory_guard_tier"] = fork.memory_guard_tier
        said["mcp", "config_path"] = fork.mcp_config
        said.pop(("sampling", _ONLY_AT_WORK), None)
        with self._taken_back():
            self._puts = []
            for (section, name), ours in said.items():
                if ours is not None:
                    owner = upstream.attribute(self._settings, section)
                    self._puts.append(_Put(owner, name, upstream.attribute(owner, name), ours))
        self._sampling = fork.sampling
        self._tell_state()

    def attach(self, state: Any) -> None:
        """Tells the server's state, which has the defaults of requests once more."""
        self._state = state
        self._tell_state()

    @contextlib.contextmanager
    def _taken_back(self) -> Iterator[None]:
        for put in self._puts:
            now = getattr(put.owner, put.name)
            if now != put.ours:  # the page's user has set it
                put.stored = now
            setattr(put.owner, put.name, put.stored)
        try:
            yield
        finally:
            for put in self._puts:
                setattr(put.owner, put.name, put.ours)

    def _tell_state(self) -> None:
        if self._state is None:
            return
        at_work = upstream.attribute(self._state, "sampling")
        for each in dataclasses.fields(at_work):
            if each.name == _ONLY_AT_WORK:
                setattr(at_work, each.name, bool(self._sampling.get(each.name, False)))
            elif hasattr(self._settings.sampling, each.name):
                setattr(at_work, each.name, getattr(self._settings.sampling, each.name))


class ModelOverlay:
    """In front of the fork's `ModelSettingsManager`: its methods, with what the configuration says of single models.

    Args:
        stored: the fork's.
        fork: what is said.

    Raises:
        ConfigError: this fork lacks a setting, or does not take it so.
    """

    def __init__(self, stored: Any, fork: ForkSettings) -> None:
        self._stored = stored
        self._said: Mapping[str, Mapping[str, Any]] = {}
        self._origins: Mapping[str, str] = {}
        self.put(fork)

    def put(self, fork: ForkSettings) -> None:
        """Has these count, and what was put before no more.

        Raises:
            ConfigError: this fork lacks a setting, or does not take it so. Nothing has changed then.
        """
        kind = upstream.attribute(upstream.module("model_settings"), "ModelSettings")
        known = {each.name for each in dataclasses.fields(kind)}
        for model_id, said in fork.models.items():
            for name in said:
                if name not in known:
                    raise ConfigError(
                        f"{_place(fork.origins, model_id, name)}: this fork has no such setting of a model; leave it "
                        "out, or use a release that has it"
                    )
            with _refusing(fork.origins, model_id, next(iter(said), "")):
                kind(**said)
                dataclasses.replace(self._stored.get_settings(model_id), **said)
        self._said, self._origins = fork.models, fork.origins

    def check_ids(self, model_ids: Sequence[str]) -> None:
        """Refuses what is said of models that no request could name.

        Raises:
            ConfigError: there is no such model.
        """
        for model_id, said in self._said.items():
            if model_id not in model_ids:
                near = difflib.get_close_matches(model_id, model_ids, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(model_ids) or 'none'}"
                place = _place(self._origins, model_id, next(iter(said), "kv"))
                raise ConfigError(f"{place}: no model {model_id!r} is served; {hint}")

    def get_settings(self, model_id: str) -> Any:
        """Those of a model."""
        return self._over(model_id, self._stored.get_settings(model_id))

    def get_all_settings(self) -> dict[str, Any]:
        """Those of all models that have any."""
        stored = self._stored.get_all_settings()
        return {
            model_id: self._over(model_id, stored.get(model_id) or self._stored.get_settings(model_id))
            for model_id in {**stored, **self._said}
        }

    def set_settings(self, model_id: str, settings: Any) -> None:
        """Keeps what the admin page's user has set."""
        before = self._stored.get_settings(model_id)
        # What is ours came with what the page has read.
        ours = {
            name: getattr(before, name)
            for name, value in self._said.get(model_id, {}).items()
            if getattr(settings, name) == value
        }
        self._stored.set_settings(model_id, dataclasses.replace(settings, **ours))

    def get_pinned_model_ids(self) -> list[str]:
        """Models that stay loaded."""
        return [model_id for model_id, each in self.get_all_settings().items() if each.is_pinned]

    def get_default_model_id(self) -> str | None:
        """The model of requests that name none."""
        for model_id, said in self._said.items():
            if said.get("is_default"):
                return model_id
        stored: str | None = self._stored.get_default_model_id()
        return None if stored is not None and not self.get_settings(stored).is_default else stored

    def _over(self, model_id: str, stored: Any) -> Any:
        said = self._said.get(model_id)
        return dataclasses.replace(stored, **said) if said else stored

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stored, name)


def _place(origins: Mapping[str, str], model_id: str, name: str) -> str:
    # Ids need quotes in TOML where they have a dot.
    for path in (f"models.{model_id}.{name}", f'models."{model_id}".{name}'):
        if path in origins:
            return f"{origins[path]}: {path}"
    return f"models.{model_id}.{name}".rstrip(".")


@contextlib.contextmanager
def _refusing(origins: Mapping[str, str], model_id: str, name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{_place(origins, model_id, name)}: {error}") from error
