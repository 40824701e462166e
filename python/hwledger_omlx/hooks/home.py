"""The fork's base folder is ours: shims for every place where upstream finds, or falls back to, `~/.omlx` or `~/.fmlx`.

Files that a user names in so many words (a model folder, a cache folder) are not its business.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwledger_omlx.fork.home import fork_home, is_upstream_folder

if TYPE_CHECKING:
    from hwledger_omlx.fork.load import LoadedFork

Wrapped = Callable[..., Any]


def base_path(original: Any) -> Path:
    """In place of `omlx.settings:DEFAULT_BASE_PATH`."""
    del original  # what upstream would have chosen
    return fork_home()


def resolve_base_path(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Path:
    """Around `omlx.settings:resolve_default_base_path`. Upstream's variables mean the user's own server: not asked."""
    return fork_home()


def metric_path(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Path:
    """Around `omlx.metrics.dflash_routing:get_metric_path`, which makes the folder of the path that it returns."""
    folder = fork_home() / "metrics"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "dflash_routing.jsonl"


def model_settings(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.model_settings:ModelSettingsManager.__init__`, which makes its `base_path`."""
    return _with_own_path(wrapped, args, kwargs, "base_path")


def server_metrics(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.server_metrics:reset_server_metrics`, which writes to `stats_path`."""
    return _with_own_path(wrapped, args, kwargs, "stats_path")


def _with_own_path(wrapped: Wrapped, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    call = inspect.signature(wrapped).bind(*args, **kwargs)
    given = call.arguments.get(name)
    if given is not None and is_upstream_folder(Path(given)):
        call.arguments[name] = _moved(Path(given))
    return wrapped(*call.args, **call.kwargs)


def _moved(path: Path) -> Path:
    """The same place under our folder: `~/.omlx/stats.json` becomes `<home>/fork/stats.json`."""
    resolved = path.expanduser().resolve()
    for name in (".omlx", ".fmlx"):
        for owned in (Path.home() / name, (Path.home() / name).resolve()):
            if resolved.is_relative_to(owned):
                return fork_home() / resolved.relative_to(owned)
    return path


def self_test(loaded: "LoadedFork") -> str | None:
    """Has upstream write wherever it would; all of it must land in our folder, and nothing in the user's."""
    before = _upstream_files()
    ours = fork_home()
    applied = {report.id for report in loaded.hooks if report.status in {"applied", "drifted"}}
    settings = importlib.import_module("omlx.settings")
    made = settings.GlobalSettings()
    if Path(made.base_path) != ours:
        return f"settings keep their files in {made.base_path}, not in {ours}"
    if "home.resolve" in applied and Path(settings.resolve_default_base_path()) != ours:
        return f"the fork resolves its base folder to {settings.resolve_default_base_path()}, not to {ours}"
    made.save()
    importlib.import_module("omlx.model_settings").ModelSettingsManager(Path.home() / ".omlx")
    metrics = importlib.import_module("omlx.server_metrics")
    metrics.reset_server_metrics(stats_path=Path.home() / ".fmlx" / "stats.json")
    metrics.get_server_metrics().save_alltime()
    if "home.metrics" in applied:
        importlib.import_module("omlx.metrics.dflash_routing").write_routing_decision({"model_name": "self-test"})
    if appeared := _upstream_files() - before:
        return f"the fork wrote {', '.join(sorted(str(path) for path in appeared))}"
    if not any(ours.rglob("*.json")):
        return f"the fork wrote nothing into {ours}"
    return None


def _upstream_files() -> set[Path]:
    found: set[Path] = set()
    for folder in (Path.home() / ".omlx", Path.home() / ".fmlx"):
        if folder.exists():
            found |= {folder, *folder.rglob("*")}
    return found
