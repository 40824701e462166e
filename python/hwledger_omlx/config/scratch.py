"""A folder of its own, under our home, for what a process writes for a moment: an upload of sound, for one.

The fork and its libraries take Python's folder for temporary files. A process that is ended at once leaves there what
it was at; here the next one finds it and removes it.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from hwledger_omlx.errors import EngineError
from hwledger_omlx.fork.home import home

_VARIABLE = "TMPDIR"


@contextlib.contextmanager
def own_temporary_folder() -> Iterator[Path]:
    """While this is entered, temporary files of this process and of its children are made in a folder of its own.

    Raises:
        EngineError: it cannot be made.
    """
    root = home() / "tmp"
    folder = root / str(os.getpid())
    try:
        _remove_abandoned(root)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"temporary files cannot be kept in {root}: {error}; give another home") from error
    before, variable = tempfile.tempdir, os.environ.get(_VARIABLE)
    tempfile.tempdir = os.environ[_VARIABLE] = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        if variable is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = variable
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(root: Path) -> None:
    """Removes the folders of processes that are gone. That of another process with an old one's id stays for now."""
    if not root.is_dir():
        return
    for each in root.iterdir():
        if each.name.isdecimal() and not psutil.pid_exists(int(each.name)):
            shutil.rmtree(each, ignore_errors=True)
