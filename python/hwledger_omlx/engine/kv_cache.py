"""Opens the KV cache that an engine was configured with, and closes it. Knows nothing of models or requests."""

import errno
import logging
from dataclasses import dataclass
from pathlib import Path

from hwledger_omlx._native import Store
from hwledger_omlx.cache.cache import Address, Cache
from hwledger_omlx.cache.settings import default_folder
from hwledger_omlx.engine.config import EngineConfig
from hwledger_omlx.errors import EngineError, StoreError, StoreFormatError, StoreInUseError
from hwledger_omlx.fork.home import home
from hwledger_omlx.hooks.paged_cache.binding import Binding

_log = logging.getLogger(__name__)

_NOT_THE_SETTINGS = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EIO}
"""What the system says of a folder that is well named and cannot be written now."""


@dataclass(frozen=True)
class KvCache:
    """The cache of an engine: its face to the user, and the store behind it."""

    face: Cache
    store: Store | None
    """Ours; None for the fork's own cache, and for none."""

    @property
    def binding(self) -> Binding | None:
        """What the hooks are told; None where they have nothing to do."""
        return None if self.store is None else Binding(self.store, home() / "fingerprints.json", self.face.uncached)

    def flush(self) -> None:
        """Has everything on disk, as far as it goes."""
        try:
            self.face.flush()
        except StoreError as error:
            # The answers are out; what of their KV is not on disk concerns later requests only.
            _log.warning("not all KV is on disk: %s", error)

    def close(self) -> None:
        """Flushes and closes the store, as far as it goes."""
        if self.store is None:
            return
        try:
            self.store.close()
        except StoreError as error:
            _log.warning("the KV cache did not close well: %s", error)


def folder_of(config: EngineConfig) -> Path | None:
    """Folder of the cache; None where none is wanted."""
    if config.cache is None:
        return None
    if config.cache_dir is not None:
        return Path(config.cache_dir)
    return home() / "kv" if config.cache == "fork" else default_folder()


def open_cache(config: EngineConfig, address: Address) -> KvCache:
    """Opens the store where ours is wanted. The fork's own cache is opened by the fork.

    Args:
        config: the engine's.
        address: where the KV of a prompt is.

    Raises:
        EngineError: there cannot be a folder of that name.
        ForeignFolderError: another program's cache is in it.
    """
    folder = folder_of(config)
    if config.paged_cache is None or folder is None:
        return KvCache(Cache(None if folder is None else "fork", folder), None)
    try:
        store = config.paged_cache.open(folder)
    except StoreInUseError as error:
        # Two programs with an engine each are no reason to stop; that one of them computes everything is worth a line.
        _log.warning("no KV cache: %s; give this engine another cache_dir to have one", error)
        return KvCache(Cache(None, folder, off_because=str(error)), None)
    except StoreFormatError as error:
        # After an upgrade, and after going back from one. What is there is someone's, so it is not taken away unasked.
        _log.warning("no KV cache: %s; remove the folder, or give another cache_dir, to have one again", error)
        return KvCache(Cache(None, folder, off_because=str(error)), None)
    except OSError as error:
        if error.errno in _NOT_THE_SETTINGS:
            # As later, when a disk fills up or is taken away: answers matter more than their KV.
            _log.warning("no KV cache: it cannot be kept in %s: %s", folder, error)
            return KvCache(Cache(None, folder, off_because=str(error)), None)
        raise EngineError(
            f"the KV cache cannot be kept in {folder}: {error}; give another cache_dir, or cache=None for none"
        ) from error
    return KvCache(Cache("paged", folder, store, address), store)
