"""The reports that running processes publish: finds them, asks for them, and clears away those of the dead."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from hwledger_omlx.errors import MemoryReportError
from hwledger_omlx.hooks.layer_memory.published import folder, report_file, watched_file
from hwledger_omlx.memory.report import MemoryReport

LATE_S = 4.0
"""A report that is older, in seconds, although somebody asks for it, comes from a process that is held up."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a process said last."""

    pid: int
    command: str
    """Its command line, as far as it may be read."""
    age_s: float
    report: MemoryReport

    @property
    def late(self) -> bool:
        """Whether the process does not answer."""
        return self.age_s > LATE_S


def ask() -> None:
    """Has all processes publish for some seconds.

    Raises:
        MemoryReportError: the folder cannot be written to.
    """
    try:
        folder().mkdir(parents=True, exist_ok=True)
        watched_file().touch()
    except OSError as error:
        raise MemoryReportError(f"running processes cannot be asked: {error}") from error


def published() -> list[Published]:
    """What each running process said last, by pid. Files of processes that are gone, or of no process, are removed."""
    found = []
    for path in sorted(folder().glob("*.json")):
        if not path.stem.isdecimal():
            continue
        pid = int(path.stem)
        if not psutil.pid_exists(pid):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            continue
        try:
            one = of_process(pid)
        except MemoryReportError:
            # Of another version, say; `--pid` tells why.
            continue
        if one is not None:
            found.append(one)
    return sorted(found, key=lambda each: each.pid)


def of_process(pid: int) -> Published | None:
    """What a process said last; None where it published nothing.

    Raises:
        MemoryReportError: what it published cannot be read.
    """
    path = report_file(pid)
    try:
        text = path.read_text(encoding="utf-8")
        age_s = max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MemoryReportError(f"{path} cannot be read: {error}") from error
    report = MemoryReport.from_json(text)
    if report.process.pid != pid:
        return None
    return Published(pid, _command(pid), age_s, report)


def _command(pid: int) -> str:
    try:
        parts = psutil.Process(pid).cmdline()
    except psutil.Error:
        return ""
    # Names say which it is; where they are takes the line.
    return " ".join(Path(part).name if Path(part).is_absolute() else part for part in parts)
