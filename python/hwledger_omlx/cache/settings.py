"""What the paged KV cache may use, and the opening of its store with it."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from hwledger_omlx._native import Store
from hwledger_omlx.cache.sizes import Size, parse_size
from hwledger_omlx.errors import StoreConfigError
from hwledger_omlx.fork.home import home

GIB = 1 << 30

_QUOTA_BYTES_AT_MOST = 100 * GIB
_QUOTA_SHARE_OF_FREE_DISK = 1 / 2
_MIN_FREE_BYTES = 4 * GIB
_MIN_FREE_SHARE_OF_DISK = 1 / 20
# Of the RAM, which on Apple Silicon is the model's too; each with a limit beyond which more was of no use.
_HOT_BYTES_AT_MOST, _HOT_SHARE = 4 * GIB, 1 / 16
_QUEUE_BYTES_AT_MOST, _QUEUE_SHARE = 2 * GIB, 1 / 16
_BACKLOG_BYTES_AT_MOST, _BACKLOG_SHARE = 16 * GIB, 1 / 4


def default_folder() -> Path:
    """Where the store is unless a folder is given. The fork's own cache has another folder."""
    return home() / "kv-store"


class _Limits(TypedDict):
    quota_bytes: int
    hot_bytes: int
    min_free_bytes: int
    daily_write_bytes: int | None
    ttl_seconds: float | None


@dataclass(frozen=True, slots=True, init=False)
class PagedCache:
    """Settings of our cache. Sizes are given in bytes or as text, such as "64GiB", and kept in bytes.

    Raises:
        StoreConfigError: a setting cannot be.
    """

    quota_bytes: int | None
    """Most that the folder's files may take; None for 100 GiB, or half of what the disk could give if that is less."""
    hot_bytes: int
    """RAM for what was saved lately, the least lately used going first. By default a sixteenth of it, 4 GiB at most."""
    queue_bytes: int
    """RAM for what is on its way to the disk. By default a sixteenth of it, 2 GiB at most."""
    backlog_bytes: int
    """KV that may wait for room in the queue, in MLX's memory. By default a quarter of the RAM, 16 GiB at most."""
    min_free_bytes: int | None
    """Free space that the disk keeps; None for 4 GiB, or a twentieth of the disk if that is less."""
    daily_write_bytes: int | None
    """Most that is written a day (UTC), for the SSD's sake; None for no limit."""
    ttl_seconds: float | None
    """How long a prefix is kept after its last use; None for as long as there is room."""
    reader_threads: int | None
    """Threads of one restore; None for one a core, 16 at most."""
    segment_bytes: int | None
    """Size of a file of the store; None for 256 MiB, or a sixteenth of the quota if that is less."""

    def __init__(
        self,
        *,
        quota_bytes: Size | None = None,
        hot_bytes: Size | None = None,
        queue_bytes: Size | None = None,
        backlog_bytes: Size | None = None,
        min_free_bytes: Size | None = None,
        daily_write_bytes: Size | None = None,
        ttl_seconds: float | None = None,
        reader_threads: int | None = None,
        segment_bytes: Size | None = None,
    ) -> None:
        def keep(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        def size(name: str, given: Size | None, default: Callable[[], int] | None = None, at_least: int = 0) -> None:
            count = parse_size(name, given) if given is not None else default() if default else None
            if count is not None and count < at_least:
                raise StoreConfigError(f"{name} must be at least {at_least}, not {count}")
            keep(name, count)

        size("quota_bytes", quota_bytes, at_least=1)
        size("hot_bytes", hot_bytes, lambda: _share_of_memory(_HOT_SHARE, _HOT_BYTES_AT_MOST))
        size("queue_bytes", queue_bytes, lambda: _share_of_memory(_QUEUE_SHARE, _QUEUE_BYTES_AT_MOST), 1)
        size("backlog_bytes", backlog_bytes, lambda: _share_of_memory(_BACKLOG_SHARE, _BACKLOG_BYTES_AT_MOST))
        size("min_free_bytes", min_free_bytes)
        size("daily_write_bytes", daily_write_bytes)
        size("segment_bytes", segment_bytes, at_least=1)
        if ttl_seconds is not None and not (_is_number(ttl_seconds) and 0 < ttl_seconds < 1e9):
            raise StoreConfigError(f"ttl_seconds must be a number of seconds above 0, or None, not {ttl_seconds!r}")
        keep("ttl_seconds", None if ttl_seconds is None else float(ttl_seconds))
        if reader_threads is not None and (type(reader_threads) is not int or not 1 <= reader_threads <= 1024):
            raise StoreConfigError(f"reader_threads must be from 1 to 1024, or None, not {reader_threads!r}")
        keep("reader_threads", reader_threads)

    def open(self, folder: str | Path) -> Store:
        """Opens the store in `folder`, and makes it where there is none.

        Raises:
            StoreError: what `Store.open` raises.
        """
        folder = Path(folder).expanduser()
        return Store.open(
            folder,
            **self._limits(folder),
            queue_bytes=self.queue_bytes,
            backlog_bytes=self.backlog_bytes,
            reader_threads=self.reader_threads,
            segment_bytes=self.segment_bytes,
        )

    def limit(self, store: Store) -> None:
        """Puts the settings in force that an open store can change: quota, hot tier, free space, write budget and TTL.

        Raises:
            StoreError: what `Store.set_limits` raises.
        """
        store.set_limits(**self._limits(store.folder))

    def _limits(self, folder: Path) -> _Limits:
        return {
            "quota_bytes": _default_quota_bytes(folder) if self.quota_bytes is None else self.quota_bytes,
            "hot_bytes": self.hot_bytes,
            "min_free_bytes": _default_min_free_bytes(folder) if self.min_free_bytes is None else self.min_free_bytes,
            "daily_write_bytes": self.daily_write_bytes,
            "ttl_seconds": self.ttl_seconds,
        }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _share_of_memory(share: float, at_most: int) -> int:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return at_most
    return min(at_most, int(total * share))


def _default_quota_bytes(folder: Path) -> int:
    # What the store has already is room of its own: the quota must not shrink with each start.
    taken = sum(file.stat().st_blocks * 512 for file in folder.glob("segments/*.kv"))
    room = shutil.disk_usage(_existing(folder)).free + taken
    return max(1, min(_QUOTA_BYTES_AT_MOST, int(room * _QUOTA_SHARE_OF_FREE_DISK)))


def _default_min_free_bytes(folder: Path) -> int:
    return min(_MIN_FREE_BYTES, int(shutil.disk_usage(_existing(folder)).total * _MIN_FREE_SHARE_OF_DISK))


def _existing(folder: Path) -> Path:
    """The folder, or the next one above that is there."""
    return next((each for each in (folder, *folder.absolute().parents) if each.is_dir()), Path("/"))
