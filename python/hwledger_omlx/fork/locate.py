"""Finds the fork: an argument, `HWLEDGER_OMLX_FORK`, or what is installed. Reads files; never imports `omlx`."""

import ast
import importlib.metadata
import importlib.util
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.version import InvalidVersion, Version

from hwledger_omlx.errors import ForkError, ForkNotFoundError

VARIABLE = "HWLEDGER_OMLX_FORK"
OLDEST = Version("0.3.6")
UNKNOWN = "unknown"
_HELP = "`pip install flyto-mlx`, or name a checkout: fork=PATH, --fork PATH or HWLEDGER_OMLX_FORK"

Source = Literal["argument", "environment", "installed"]


@dataclass(frozen=True)
class Fork:
    """A distribution of the package `omlx`, found but not imported."""

    path: Path
    """The folder that goes on `sys.path`."""
    package: Path
    """The folder `omlx` itself."""
    distribution: str | None
    """Such as `flyto-mlx`; None for a bare checkout."""
    version: str
    """As the fork says it, or `unknown`."""
    source: Source

    @property
    def release(self) -> Version | None:
        """The version, comparable; None where it is unknown or not a version as PEP 440 has it."""
        try:
            return Version(self.version)
        except InvalidVersion:
            return None

    def __str__(self) -> str:
        return f"{self.distribution or 'checkout'} {self.version} at {self.package} ({self.source})"


def wanted(fork: str | os.PathLike[str] | None = None) -> tuple[Path, Source] | None:
    """The path that was asked for and by what, or None where nobody asked for one."""
    if fork is not None:
        return Path(fork), "argument"
    if named := os.environ.get(VARIABLE, "").strip():
        return Path(named), "environment"
    return None


def locate(fork: str | os.PathLike[str] | None = None) -> Fork:
    """The fork to use.

    Args:
        fork: a checkout (it has `omlx` or `src/omlx`), the folder `omlx` itself, or None for the environment variable
            `HWLEDGER_OMLX_FORK` and after that the installed package.

    Raises:
        ForkNotFoundError: there is none; the message says where it was looked for and what to do.
        ForkError: it is older than 0.3.6, or not a package. A version that cannot be read is no error: each hook is
            judged by the source it meets, not by the number.
    """
    asked = wanted(fork)
    found = _at(*asked) if asked else _installed()
    if found.release is not None and found.release < OLDEST:
        raise ForkError(f"{found} is too old: {OLDEST} is the oldest that works; {_HELP}")
    return found


def _at(path: Path, source: Source) -> Fork:
    path = path.expanduser()
    said = f"HWLEDGER_OMLX_FORK={path}" if source == "environment" else f"fork={path}"
    if not path.is_dir():
        raise ForkNotFoundError(f"{said}: no such folder; {_HELP}")
    path = path.resolve()
    folders = [path / "omlx", path / "src" / "omlx", *([path] if path.name == "omlx" else [])]
    for package in folders:
        if (package / "__init__.py").is_file():
            return _described(package, source, [package.parent])
    if any(folder.is_dir() for folder in folders):
        raise ForkError(f"{said}: its omlx folder has no __init__.py, so it is no Python package; {_HELP}")
    raise ForkNotFoundError(f"{said}: neither omlx/__init__.py nor src/omlx/__init__.py is in it; {_HELP}")


def _installed() -> Fork:
    try:
        spec = importlib.util.find_spec("omlx")
    except (ImportError, ValueError) as error:
        raise ForkError(f"the package omlx cannot be looked up: {error}; {_HELP}") from error
    if spec is None:
        raise ForkNotFoundError(f"no package omlx is installed and no fork was named; {_HELP}")
    if spec.origin is None or Path(spec.origin).name != "__init__.py":
        where = ", ".join(spec.submodule_search_locations or []) or spec.origin
        raise ForkError(f"omlx at {where} is no Python package (no __init__.py); {_HELP}")
    return _described(Path(spec.origin).resolve().parent, "installed", None)


def _described(package: Path, source: Source, search: list[Path] | None) -> Fork:
    owner = _distribution(package, search)
    version = (
        _literal_version(package / "_version.py")
        or _literal_version(package / "__init__.py")
        or (owner.version if owner else None)
        or _project_version(package.parent)
        or _project_version(package.parent.parent)
        or UNKNOWN
    )
    name = owner.metadata["Name"] if owner else None
    return Fork(package.parent, package, name, version, source)


def _distribution(package: Path, search: list[Path] | None) -> importlib.metadata.Distribution | None:
    """The installed distribution that brought the package: the one whose list of files has it."""
    found = (
        importlib.metadata.distributions()
        if search is None
        else importlib.metadata.distributions(path=[str(folder) for folder in search])
    )
    # Names that look like it first: reading the file list of everything installed takes a while.
    for each in sorted(found, key=lambda each: "mlx" not in (each.metadata["Name"] or "").lower()):
        listed = "\n" + (each.read_text("RECORD") or "")
        if "\nomlx/__init__.py," in listed and Path(str(each.locate_file("omlx"))).resolve() == package:
            return each
    return None


def _literal_version(path: Path) -> str | None:
    """`__version__ = "..."` of a file, without running it."""
    if not path.is_file():
        return None
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        raise ForkError(f"{path} is no Python that can be parsed: {error}") from error
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        named = any(isinstance(target, ast.Name) and target.id == "__version__" for target in targets)
        value = getattr(node, "value", None)
        if named and isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.value
    return None


def _project_version(folder: Path) -> str | None:
    path = folder / "pyproject.toml"
    if not path.is_file():
        return None
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ForkError(f"{path} cannot be read: {error}") from error
    # A folder above the package may be of another project.
    if "omlx" not in str(project.get("name", "")) and "mlx" not in str(project.get("name", "")):
        return None
    version = project.get("version")
    return version if isinstance(version, str) else None
