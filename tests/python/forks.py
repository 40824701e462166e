"""Forks, patch series and shims made on the fly: small packages `omlx` that a test can bend as a release might."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ENGINE = '''
class Engine:
    """Documented."""

    def step(self, request: str, count: int = 1) -> str:
        """What a hook wraps."""
        return f"{request} x{count}"

class Store:
    def save(self, block):
        return block

def make(kind):
    return Store()

LIMIT = 3
'''
"""A module with one thing of each form, as the hooks of `HOOKS` expect it."""

STEP: dict[str, Any] = {
    "id": "probe.step",
    "target": "omlx.engine:Engine.step",
    "kind": "wrap",
    "shim": "probe_shims:step",
    "self_test": "probe_shims:step_works",
    "parameters": ["request"],
    "feature": "probe",
}

SHIMS = """
import importlib, os, pathlib, sys

calls = []

def step(wrapped, instance, args, kwargs):
    calls.append(args)
    return f"hooked {wrapped(*args, **kwargs)}"

def step_works(loaded):
    _count("step_works")
    engine = importlib.import_module("omlx.engine").Engine()
    said = engine.step("a")
    with loaded.lifted("probe.step"):
        without = engine.step("a")
    return None if said == f"hooked {without}" else f"step says {said}, without the hook {without}"

def limit(original):
    return original + 100

def limit_works(loaded):
    return None

class OurStore:
    def save(self, block):
        return block

def store(original):
    return OurStore

def fails(loaded):
    raise RuntimeError("the probe says no")

def hangs(loaded):
    import threading
    threading.Event().wait()

def dies(loaded):
    os._exit(9)

def broken(original):
    raise RuntimeError("shim is broken")

def _count(name):
    with open(os.environ["PROBE_COUNTER"], "a") as file:
        file.write(name + "\\n")
"""


def write_fork(
    folder: Path, modules: Mapping[str, str | None] | None = None, *, version: str | None = "0.7.0", init: str = ""
) -> Path:
    """Writes a package `omlx` into `folder` and returns it. `modules`: `engine` or `a.b` → source, None for none."""
    package = folder / "omlx"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(init, encoding="utf-8")
    if version is not None:
        (package / "_version.py").write_text(f'__version__ = "{version}"\n', encoding="utf-8")
    for name, source in {"engine": ENGINE, **(modules or {})}.items():
        if source is None:
            continue
        *parents, last = name.split(".")
        inner = package
        for parent in parents:
            inner = inner / parent
            inner.mkdir(exist_ok=True)
            (inner / "__init__.py").touch()
        (inner / f"{last}.py").write_text(source, encoding="utf-8")
    return folder


def write_series(folder: Path, *hooks: Mapping[str, Any]) -> Path:
    """Writes a manifest with the hooks into the folder `patches`, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ['title = "Probe"', 'why = "It is a test."']
    for hook in hooks:
        lines.append("\n[[hook]]")
        tables = {key: value for key, value in hook.items() if isinstance(value, Mapping)}
        lines += [f"{key} = {json.dumps(value)}" for key, value in hook.items() if key not in tables]
        for key, table in tables.items():
            lines.append(f"[hook.{key}]")
            lines += [f'"{name}" = {json.dumps(value)}' for name, value in table.items()]
    (folder / "050-probe.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_shims(folder: Path) -> dict[str, str]:
    """Writes `probe_shims.py`, and returns the environment in which processes, self-tests too, can import it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "probe_shims.py").write_text(SHIMS, encoding="utf-8")
    return {"PYTHONPATH": str(folder), "PROBE_COUNTER": str(folder / "count.txt")}


def counted(folder: Path) -> int:
    """How many self-tests of `probe_shims.py` have run."""
    path = folder / "count.txt"
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def run_python(code: str, *, timeout_s: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a process of its own, since a process has room for one fork."""
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
