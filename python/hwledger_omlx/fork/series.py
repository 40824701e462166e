"""The patch series as this process knows it: the hooks, and for each the digests it was proven on.

Hooks come from the extension, which has the manifests compiled in, or from a folder of manifests. Digests come from the
manifests and from the lock file that `hwledger-omlx patches lock` writes for a fork of the user's own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hwledger_omlx import _native
from hwledger_omlx._native import Hook
from hwledger_omlx.errors import SeriesError
from hwledger_omlx.fork.home import home, write_json

LOCK_FILE = "patches.lock.json"


@dataclass(frozen=True)
class Series:
    """Hooks in the order in which they are applied."""

    hooks: tuple[Hook, ...]
    folder: Path | None = None
    """Where the manifests were read from; None for those compiled in."""

    @classmethod
    def shipped(cls) -> "Series":
        """The series that this build carries."""
        return cls(tuple(_native.series()))

    @classmethod
    def of_folder(cls, folder: Path) -> "Series":
        """The series of a folder `patches/`.

        Raises:
            SeriesError: there is no manifest in it, or one is malformed.
        """
        files = sorted(folder.glob("*.toml"))
        if not files:
            raise SeriesError(f"{folder}: no patch manifest (*.toml) there")
        texts = [(file.name, file.read_text(encoding="utf-8")) for file in files]
        return cls(tuple(_native.parse_series(texts)), folder.resolve())

    @property
    def features(self) -> frozenset[str]:
        """The switches that the hooks hang on."""
        return frozenset(hook.feature for hook in self.hooks)


Digests = Mapping[str, Mapping[str, str]]
"""hook id → release → digest."""


def locked_digests() -> Digests:
    """What `patches lock` recorded on this machine, beside what the manifests say.

    Raises:
        SeriesError: the lock file is damaged.
    """
    path = home() / LOCK_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(hook): {str(k): str(v) for k, v in each.items()} for hook, each in content["digests"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SeriesError(f"{path} is damaged ({error}); remove it and run `hwledger-omlx patches lock`") from error


def record_locally(release: str, digests: Mapping[str, str]) -> Path:
    """Adds digests (hook id → digest) for a fork release to the lock file of this machine, and returns its path."""
    merged = {hook: dict(each) for hook, each in locked_digests().items()}
    for hook, digest in digests.items():
        merged.setdefault(hook, {})[release] = digest
    path = home() / LOCK_FILE
    write_json(path, {"digests": merged})
    return path


def record_in_folder(folder: Path, release: str, digests: Mapping[str, str]) -> list[Path]:
    """Adds digests for a fork release to the manifests of a folder `patches/`; comments and layout stay.

    All manifests are checked before the first is written.

    Returns:
        The files that changed.
    """
    changed: list[tuple[Path, str]] = []
    for file in sorted(folder.glob("*.toml")):
        text = file.read_text(encoding="utf-8")
        ids = {hook.id for hook in _native.parse_series([(file.name, text)])}
        new = _native.lock_manifest(file.name, text, release, {k: v for k, v in digests.items() if k in ids})
        if new != text:
            changed.append((file, new))
    for file, new in changed:
        file.write_text(new, encoding="utf-8")
    return [file for file, _ in changed]
