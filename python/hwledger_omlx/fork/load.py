"""Loads the fork: judges the series, puts the fork on `sys.path` and has each hook applied when its module is imported.

One fork per process, since `sys.modules` has room for one `omlx`. Nothing of the fork is imported here.
"""

import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from hwledger_omlx.errors import ForkError
from hwledger_omlx.fork.apply import Placement
from hwledger_omlx.fork.digest import Sources
from hwledger_omlx.fork.locate import Fork, locate, wanted
from hwledger_omlx.fork.series import Series, locked_digests
from hwledger_omlx.fork.verify import HookReport, Verdict, judge, require_safe, verify

_log = logging.getLogger("hwledger_omlx.fork")
_lock = threading.RLock()
_loaded: "LoadedFork | None" = None


class LoadedFork:
    """The fork of this process, with what became of each hook."""

    def __init__(self, fork: Fork, verdicts: Sequence[Verdict], features_off: frozenset[str]) -> None:
        self._fork = fork
        self._features_off = features_off
        self._verdicts = tuple(verdicts)
        self._failed: dict[str, str] = {}
        self._placements = {
            each.hook.id: Placement(each.hook, partial(self._refuse, each.hook.id))
            for each in verdicts
            if each.status in {"applied", "drifted"}
        }

    @property
    def fork(self) -> Fork:
        """Which distribution, version and path."""
        return self._fork

    @property
    def features_off(self) -> frozenset[str]:
        """The features that were turned off."""
        return self._features_off

    @property
    def hooks(self) -> tuple[HookReport, ...]:
        """What became of each hook, in the order of the series; a hook that failed late is `refused`."""
        return tuple(
            replace(each.report, status="refused", reason=self._failed[each.hook.id])
            if each.hook.id in self._failed
            else each.report
            for each in self._verdicts
        )

    def confirm(self) -> tuple[HookReport, ...]:
        """Checks, for the modules imported by now, that each hook's object is the one in use; call it after start.

        The fork swallows errors of what it constructs, so being applied is not proof. A hook that is not in use becomes
        `refused`, with a warning.

        Raises:
            ForkError: a required hook is not in use.
        """
        for hook_id, placement in self._placements.items():
            if problem := placement.check():
                self._refuse(hook_id, problem)
                if placement.hook.required:
                    raise ForkError(f"{self._fork} is not safe to use: required hook {hook_id}: {problem}")
        return self.hooks

    @contextmanager
    def lifted(self, hook_id: str) -> Iterator[None]:
        """Upstream's own behaviour in the place of one hook, for as long as the context lasts. For self-tests."""
        if hook_id not in self._placements:
            raise ForkError(f"hook {hook_id} is not applied")
        with self._placements[hook_id].lifted():
            yield

    def _arm(self) -> None:
        for placement in self._placements.values():
            placement.arm()

    def _refuse(self, hook_id: str, problem: str) -> None:
        if hook_id not in self._failed:
            self._failed[hook_id] = problem
            _log.warning("hook %s refused, upstream's behaviour stays: %s", hook_id, problem)


def load(
    fork: str | os.PathLike[str] | None = None,
    *,
    features_off: Iterable[str] | None = None,
    series: Series | None = None,
) -> LoadedFork:
    """Loads the fork into this process, or returns it where it is loaded already. Safe to call from any thread.

    Args:
        fork: as for `locate`. None also means: whatever is loaded.
        features_off: features whose hooks are left out; None means none, or as loaded.
        series: another series than the shipped one.

    Raises:
        ForkNotFoundError: there is no fork.
        ForkError: it is too old, another one is in this process, a required hook is refused, or no such feature.
    """
    global _loaded
    off = None if features_off is None else frozenset(features_off)
    with _lock:
        if _loaded is not None:
            return _same(_loaded, fork, off)
        found = locate(fork)
        _check_imported(found)
        series = series or Series.shipped()
        off = off or frozenset()
        if unknown := off - series.features:
            known = ", ".join(sorted(series.features))
            raise ForkError(f"no feature {', '.join(sorted(unknown))} to turn off; there are {known}")
        verdicts = verify(found, series, features_off=off)
        require_safe(found, verdicts)
        _announce(found, verdicts)
        _loaded = _put_in_place(found, verdicts, off)
        return _loaded


def loaded() -> LoadedFork | None:
    """The fork of this process, or None where none has been loaded."""
    return _loaded


def load_unproven(fork: Path, series: Series, hook_ids: frozenset[str]) -> LoadedFork:
    """For the self-test process only: applies the hooks named, and what is required, without asking for proof."""
    global _loaded
    found = locate(fork)
    sources, locked = Sources(found.package), locked_digests()
    verdicts = [judge(found, sources, hook, locked) for hook in series.hooks if hook.required or hook.id in hook_ids]
    require_safe(found, verdicts)
    with _lock:
        _loaded = _put_in_place(found, verdicts, frozenset())
        return _loaded


def _put_in_place(found: Fork, verdicts: Sequence[Verdict], off: frozenset[str]) -> LoadedFork:
    if found.source != "installed" and str(found.path) not in sys.path[:1]:
        sys.path.insert(0, str(found.path))
    result = LoadedFork(found, verdicts, off)
    result._arm()
    return result


def _same(current: LoadedFork, fork: str | os.PathLike[str] | None, off: frozenset[str] | None) -> LoadedFork:
    if wanted(fork) is not None and (other := locate(fork)).package != current.fork.package:
        raise ForkError(f"{current.fork} is loaded, so {other} cannot be: one fork per process; start another process")
    if off is not None and off != current.features_off:
        was = ", ".join(sorted(current.features_off)) or "none"
        raise ForkError(f"{current.fork} is loaded with features off: {was}; that cannot change in this process")
    return current


def _check_imported(found: Fork) -> None:
    """A fork that the user imported first must be the one that was asked for."""
    module = sys.modules.get("omlx")
    if module is None:
        return
    file = getattr(module, "__file__", None)
    if file is None or Path(file).resolve().parent != found.package:
        raise ForkError(
            f"omlx is already imported from {file}, so {found} cannot be loaded: one fork per process; "
            "load it before you import omlx, or name that one"
        )


def _announce(found: Fork, verdicts: Sequence[Verdict]) -> None:
    _log.info("loading %s", found)
    if found.release is None:
        _log.warning("%s: its version cannot be read, so each hook goes by the source alone", found)
    for each in verdicts:
        if each.status == "drifted":
            _log.warning("hook %s drifted, applied all the same: %s", each.hook.id, each.reason)
        elif each.status == "refused":
            _log.warning("hook %s refused, upstream's behaviour stays: %s", each.hook.id, each.reason)
