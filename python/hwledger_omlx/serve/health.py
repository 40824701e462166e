"""What `/health` says of the server: its versions, models, cache and memory, and whether it gets on."""

import ctypes
import ctypes.util
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Literal

import psutil

from hwledger_omlx import __version__
from hwledger_omlx.engine.activity import activity, requests_of_any_kind
from hwledger_omlx.engine.generation import LoadedModel
from hwledger_omlx.engine.session import Session
from hwledger_omlx.serve.heartbeat import Heartbeat

Status = Literal["ok", "busy", "stuck"]

_MACOS_PRESSURE = {1: "normal", 2: "warning", 4: "critical"}
"""`kern.memorystatus_vm_pressure_level`; the values of dispatch/source.h, DISPATCH_MEMORYPRESSURE_*."""


class Health:
    """The health of one server. Its methods may be called on any thread, and none waits for the engine.

    Args:
        session: the engine.
        heartbeat: knows what is stuck.
        waiting: gives the requests that the engine was not given yet, by model.
    """

    def __init__(self, session: Session, heartbeat: Heartbeat, waiting: Callable[[], Mapping[str, int]] = dict) -> None:
        self._session = session
        self._heartbeat = heartbeat
        self._waiting = waiting
        self._began_s = time.monotonic()
        self._process = psutil.Process()
        self.versions = versions(session)

    def report(self) -> dict[str, Any]:
        """The report as JSON has it; `status` is the verdict."""
        stuck = self._heartbeat.stuck()
        models = self._models()
        busy = any(model["requests_running"] or model["requests_waiting"] for model in models)
        status: Status = "stuck" if stuck else "busy" if busy else "ok"
        return {
            "status": status,
            "stuck": [asdict(each) for each in stuck],
            "stuck_after_s": self._heartbeat.stuck_after_s,
            "uptime_s": time.monotonic() - self._began_s,
            "versions": self.versions,
            "models": models,
            "cache": self._cache(),
            "memory": {"resident_bytes": self._process.memory_info().rss, **memory_pressure()},
        }

    def _models(self) -> list[dict[str, Any]]:
        outside = self._waiting()
        models = self._session.loaded_of_any_kind.items()
        return [said for model_id, model in models if (said := _of_model(model_id, model, outside)) is not None]

    def _cache(self) -> dict[str, Any]:
        cache = self._session.cache
        stats = cache.stats()
        said: dict[str, Any] = {"kind": cache.kind, "state": stats.state, "why": stats.state_why}
        if stats.uncached_models:
            said["uncached_models"] = dict(stats.uncached_models)
        return said


def _of_model(model_id: str, model: LoadedModel, outside: Mapping[str, int]) -> dict[str, Any] | None:
    at = requests_of_any_kind(model.placed)
    if at is None:
        return None
    said: dict[str, Any] = {
        "id": model_id,
        "kind": model.placed.kind,
        "weights_bytes": model.folder.weights_bytes,
        "requests_running": at.running,
        "requests_waiting": at.waiting + outside.get(model_id, 0),
    }
    if model.placed.generates:
        generating = activity(model.placed)
        policy = None if generating is None else generating.kv_policy
        return said | {"context_tokens": model.context_tokens, "kv_policy": policy}
    # An answer in one piece gives no sign of life before its end, so that nobody can tell it from one that hangs.
    return said | {"longest_request_s": at.longest_s}


def versions(session: Session) -> dict[str, str]:
    """What runs here, by name."""
    fork = session.fork.fork
    return {
        "hwledger-omlx": __version__,
        "fork": f"{fork.distribution or 'checkout'} {fork.version}",
        "mlx": importlib.metadata.version("mlx"),
        "mlx-lm": importlib.metadata.version("mlx-lm"),
        "python": platform.python_version(),
    }


def memory_pressure() -> dict[str, Any]:
    """Memory of the system, and how scarce the kernel says it is, where it says so."""
    memory = psutil.virtual_memory()
    return {
        "system_total_bytes": memory.total,
        "system_available_bytes": memory.available,
        "available_share": memory.available / memory.total,
        "pressure": _macos_pressure() if sys.platform == "darwin" else None,
    }


def _macos_pressure() -> str | None:
    """The level of the kernel; None where it does not say."""
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    level = ctypes.c_int()
    size = ctypes.c_size_t(ctypes.sizeof(level))
    name = b"kern.memorystatus_vm_pressure_level"
    if libc.sysctlbyname(name, ctypes.byref(level), ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return None
    return _MACOS_PRESSURE.get(level.value)
