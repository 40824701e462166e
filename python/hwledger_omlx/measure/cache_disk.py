"""How fast a disk is when it is read and written in order: by fio where it is installed, else by a measurement of ours.

Both do the same: one thread, 1 MiB at a time through the page cache, which is emptied of the file before a read; a
write counts until fsync has returned. Knows nothing of stores.
"""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from hwledger_omlx.errors import HarnessError
from hwledger_omlx.measure.cache_store_worker import drop_from_page_cache

_MIB = 2**20
_FIO_TIMEOUT_S = 600.0


class SequentialDisk:
    """Measures the disk that a folder is on."""

    def __init__(self, folder: Path, nbytes: int, *, fio: str | None = None) -> None:
        """Nothing is written yet.

        Args:
            folder: an existing one; gets one file of `nbytes`.
            nbytes: bytes to read and to write, rounded down to whole MiB.
            fio: the program; None for a measurement of our own.
        """
        self._file = folder / "sequential"
        self._nbytes = max(nbytes // _MIB, 1) * _MIB
        self._fio = fio

    @property
    def measured_by(self) -> str:
        """For a report."""
        how = "fio (psync, 1 MiB)" if self._fio else "our own sequential loop of 1 MiB, since fio is not installed"
        return f"{how}, page cache emptied before reading, fsync at the end of writing"

    def write_bytes_per_s(self) -> float:
        """Writes the file anew, to the end of fsync."""
        self._file.unlink(missing_ok=True)
        if self._fio:
            return self._run_fio("write", "--end_fsync=1")
        # Random, as fio's and as KV is: a disk that compresses would make zeros fast.
        piece = os.urandom(_MIB)
        start_s = time.perf_counter()
        with self._file.open("wb", buffering=0) as file:
            for _ in range(self._nbytes // _MIB):
                file.write(piece)
            os.fsync(file.fileno())
        return self._nbytes / (time.perf_counter() - start_s)

    def read_bytes_per_s(self) -> float:
        """Reads the file from the disk; writes it first where it is missing."""
        if not self._file.exists():
            self.write_bytes_per_s()
        if self._fio:
            return self._run_fio("read", "--invalidate=1")
        drop_from_page_cache(self._file)
        piece = bytearray(os.urandom(_MIB))
        start_s = time.perf_counter()
        with self._file.open("rb", buffering=0) as file:
            while file.readinto(piece):
                pass
        return self._nbytes / (time.perf_counter() - start_s)

    def _run_fio(self, direction: str, *more: str) -> float:
        command = [
            self._fio or "fio",
            "--name=sequential",
            f"--filename={self._file}",
            f"--rw={direction}",
            "--bs=1M",
            f"--size={self._nbytes}",
            "--ioengine=psync",
            "--output-format=json",
            *more,
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_FIO_TIMEOUT_S, check=True)
            # The JSON may follow warnings.
            job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
            # `runtime` ends with the last write; `job_runtime` counts the fsync too. Both in milliseconds.
            milliseconds = job["job_runtime"] if direction == "write" else job[direction]["runtime"]
            return self._nbytes / (max(float(milliseconds), 1.0) / 1e3)
        except subprocess.CalledProcessError as error:
            raise HarnessError(f"fio failed: {(error.stderr or error.stdout).strip()[-500:]}") from error
        except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, IndexError) as error:
            raise HarnessError(f"fio gave no answer to use ({type(error).__name__}: {error})") from error


def installed_fio() -> str | None:
    """The program, where there is one."""
    return shutil.which("fio")


def filesystem_of(folder: Path) -> str:
    """Kind of the file system that the folder is on, such as `ext4`; `unknown` where nobody says."""
    import psutil

    mounts = {Path(each.mountpoint): each.fstype for each in psutil.disk_partitions(all=True)}
    place = folder.resolve()
    for parent in (place, *place.parents):
        if mounts.get(parent):
            return str(mounts[parent])
    return "unknown"
