"""`Ledger`: one row a request, what was predicted of its memory beside what it took, kept in a small SQLite database.

The database is the core's: other programs may read it, but not with another SQLite inside this process, whose closing
would drop the locks of both (https://www.sqlite.org/howtocorrupt.html, "Multiple copies of SQLite linked into the same
application").
"""

import json
import weakref
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack

from hwledger_omlx._native import Ledger as NativeLedger
from hwledger_omlx.errors import LedgerError, LedgerNotFoundError
from hwledger_omlx.fork.home import home
from hwledger_omlx.memory.device import device_name
from hwledger_omlx.memory.ledger_listener import FolderOf, Listener, Predict
from hwledger_omlx.memory.ledger_reconcile import ModelErrors, RuntimeFit, parse
from hwledger_omlx.memory.ledger_row import LedgerRow
from hwledger_omlx.memory.ledger_stats import LedgerStats
from hwledger_omlx.memory.runtime import Runtime

Since = datetime | float | None
"""A point in time, as a datetime or in seconds since 1970 (UTC)."""

_PAGE_ROWS = 2000


class LedgerSettings(TypedDict, total=False):
    """How a ledger is opened."""

    create: bool
    """Whether a database is made where there is none; True by default."""
    max_rows: int
    """Most rows kept, the first recorded going first; 100,000 by default, some 25 MB."""
    max_age_s: float | None
    """How long a row is kept after its request arrived; half a year by default, None for ever."""
    queue_rows: int
    """Rows that may wait to be written; more are dropped. 4,096 by default."""
    patience_s: float
    """How long another process' lock is waited for before rows are dropped; 5 by default."""


def default_path() -> Path:
    """Where the ledger is unless a path is given: beside the cache."""
    return home() / "ledger.sqlite3"


def fitted_runtime(model: str, *, device: str | None = None, path: str | Path | None = None) -> Runtime | None:
    """The planner's runtime term for a model, as seen on this machine; None where nothing was recorded or fitted yet.

    Args:
        model: the model's id.
        device: MLX's default device where it is not said.
        path: the database; the default one where it is not said.

    Raises:
        LedgerError: there is a ledger, and it cannot be read.
    """
    try:
        with Ledger.open(path, create=False) as ledger:
            return ledger.fitted_runtime(model, device)
    except LedgerNotFoundError:
        return None


class Ledger:
    """The requests of this machine, or of whoever shares the path. Usable from any thread; closed when Python ends.

    `open` or `off` makes one.
    """

    def __init__(self, native: NativeLedger | None, path: Path | None, off_because: str | None = None) -> None:
        self.path = path
        """The database; None where there is none."""
        self._native = native
        self._off_because = off_because
        self._listener: Listener | None = None
        if native is not None:
            weakref.finalize(self, native.close)

    @classmethod
    def open(cls, path: str | Path | None = None, **settings: Unpack[LedgerSettings]) -> Self:
        """Opens the database at `path`, or at the default place, and makes it where there is none.

        Raises:
            LedgerNotFoundError: there is none, and `create` is False.
            LedgerFormatError: a damaged one, one of a later version, or another program's. It is left alone.
            LedgerError: a setting cannot be, or the system refused.
        """
        place = default_path() if path is None else Path(path).expanduser()
        try:
            return cls(NativeLedger.open(place, **settings), place)
        except (OverflowError, TypeError, ValueError) as error:
            raise LedgerError(f"a setting of the ledger: {error}") from error

    @classmethod
    def off(cls, because: str | None = None) -> Self:
        """A ledger that records nothing and says so."""
        return cls(None, None, because)

    @property
    def state(self) -> str:
        """What `stats().state` says: `running`, `closed`, or `off` with the reason."""
        return self.stats().state

    def listen(self, folder_of: FolderOf, *, predict: Predict | None = None, device: str | None = None) -> None:
        """Records every request that ends from now on, until `close`. Nothing to do where the ledger is off.

        Args:
            folder_of: from the id of a request's model to the model's folder; None of a model that is somebody else's,
                whose requests are left to them. Called on the engine's thread.
            predict: the planner. Called on the ledger's own thread.
            device: what the requests run on; MLX's default device where it is not said.
        """
        if self._native is None:
            return
        if self._listener is not None:
            raise LedgerError("this ledger listens already")
        self._listener = Listener(self._native, folder_of, predict, device_name() if device is None else device)
        # Before the ledger, for the last finalizer is called first.
        weakref.finalize(self, self._listener.close)

    def record(self, row: LedgerRow) -> bool:
        """Hands a row to the thread that writes. Never waits; False where it had to be dropped.

        Raises:
            LedgerError: it is no row, or the ledger is off.
            LedgerClosedError: the ledger is closed.
        """
        native = self._opened("record")
        try:
            return native.record(row.to_native())
        except (TypeError, ValueError) as error:
            raise LedgerError(f"this is no row of a ledger: {error}") from error

    def rows(self, *, model: str | None = None, since: Since = None, limit: int = 1000) -> list[LedgerRow]:
        """The last `limit` rows, the first recorded first. Also after `close`.

        Args:
            model: only of the model of this id.
            since: only of requests that arrived then or later.
            limit: most rows.

        Raises:
            LedgerError: the database cannot be read, or the ledger is off.
        """
        text = self._opened("rows").rows(limit=max(limit, 0), model=model, since_unix_s=_unix_s(since))
        return [LedgerRow.of(said) for said in json.loads(text)]

    def all_rows(self, *, model: str | None = None, since: Since = None) -> Iterator[list[LedgerRow]]:
        """Every row that is meant, the first recorded first, in lists of some thousand.

        Raises:
            LedgerError: the database cannot be read, or the ledger is off.
        """
        native = self._opened("all_rows")
        after = -(1 << 63)
        while True:
            text = native.rows(limit=_PAGE_ROWS, model=model, since_unix_s=_unix_s(since), after_id=after)
            page = [LedgerRow.of(said) for said in json.loads(text)]
            if not page:
                return
            yield page
            after = page[-1].id if page[-1].id is not None else after

    def reconcile(self, *, model: str | None = None, since: Since = None) -> list[ModelErrors]:
        """Holds what was predicted against what was measured, and keeps what the runtime was found to take.

        Args:
            model: only of the model of this id.
            since: only of requests that arrived then or later, such as after an update.

        Raises:
            LedgerLockedError: another process keeps it from being kept.
            LedgerError: the database cannot be read or written, or the ledger is off.
        """
        return parse(self._opened("reconcile").reconcile(model=model, since_unix_s=_unix_s(since)))

    def fitted_runtime(self, model: str, device: str | None = None) -> Runtime | None:
        """The planner's runtime term for a model, as the last `reconcile` that could tell kept it.

        Args:
            model: the model's id.
            device: MLX's default device where it is not said.

        Raises:
            LedgerError: the database cannot be read, or the ledger is off.
        """
        native = self._opened("fitted_runtime")
        return RuntimeFit.runtime_of(native.fitted_runtime(model, device_name() if device is None else device))

    def stats(self) -> LedgerStats:
        """What became of the requests since the ledger was opened."""
        if self._native is None:
            return LedgerStats(state="off" if self._off_because is None else f"off: {self._off_because}")
        stats = LedgerStats.parse(self._native.stats())
        return stats if self._listener is None else self._listener.counted_in(stats)

    def flush(self) -> None:
        """Returns when every request that ended before is written, or dropped and counted.

        Raises:
            LedgerClosedError: the ledger is closed.
        """
        if self._native is not None:
            if self._listener is not None:
                self._listener.flush()
            self._native.flush()

    def close(self) -> None:
        """Listens no more and writes what was taken. Rows can still be read. Safe to call twice."""
        if self._native is not None:
            if self._listener is not None:
                self._listener.close()
            self._native.close()

    def _opened(self, what: str) -> NativeLedger:
        if self._native is None:
            why = "" if self._off_because is None else f": {self._off_because}"
            raise LedgerError(f"{what}: there is no ledger{why}; open the engine with ledger=True, or a path")
        return self._native

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Ledger {self.state} {self.path or ''}".rstrip() + ">"


def _unix_s(since: Since) -> float | None:
    return since.timestamp() if isinstance(since, datetime) else since
