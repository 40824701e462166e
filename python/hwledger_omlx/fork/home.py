"""Where this package and the fork under it keep files: one folder of ours, never the user's `~/.omlx` or `~/.fmlx`."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import platformdirs

from hwledger_omlx.errors import ForkError

VARIABLE = "HWLEDGER_OMLX_HOME"
_UPSTREAM_FOLDERS = (".omlx", ".fmlx")


def home() -> Path:
    """Our base folder: `HWLEDGER_OMLX_HOME`, or `hwledger-omlx` in the user's data folder. It is not made here.

    Raises:
        ForkError: the variable points into a folder that belongs to the user's own oMLX.
    """
    given = os.environ.get(VARIABLE, "").strip()
    path = Path(given).expanduser().resolve() if given else Path(platformdirs.user_data_dir("hwledger-omlx"))
    if is_upstream_folder(path):
        raise ForkError(f"{VARIABLE} is {path}, which belongs to your own oMLX; choose another folder")
    return path


def fork_home() -> Path:
    """What the fork gets as its base folder."""
    return home() / "fork"


def is_upstream_folder(path: Path) -> bool:
    """Whether `path` is, or lies in, the folder that the user's own oMLX keeps its files in."""
    resolved = path.expanduser().resolve()
    owned = [Path.home() / name for name in _UPSTREAM_FOLDERS]
    return any(
        resolved == folder or resolved.is_relative_to(folder) for each in owned for folder in (each, each.resolve())
    )


def write_json(path: Path, content: Any) -> None:
    """Writes the file whole or not at all, and makes its folder where there is none."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes the file whole or not at all, and makes its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
