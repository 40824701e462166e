"""What a ledger counts, typed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerStats:
    """What became of the requests since the ledger was opened. `print` it."""

    state: str
    """`running`, `closed`, or `off` with the reason."""
    path: Path | None = None
    """The database."""
    trouble: str | None = None
    """Why nothing can be written now."""
    written_rows: int = 0
    duplicate_rows: int = 0
    """Requests that another listener had recorded already."""
    queued_rows: int = 0
    """On their way."""
    dropped_rows: Mapping[str, int] = field(default_factory=dict)
    """By the reason: `queue_full`, `locked`, `disk_full`, `damaged`, `newer`, `foreign`, `unwritable`, `no_row`."""
    transactions: int = 0
    """That wrote rows."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From the JSON of the core's `Ledger.stats`."""
        said = json.loads(text)
        closed = said.pop("closed")
        return cls(state="closed" if closed else "running", path=Path(said.pop("path")), **said)

    def __str__(self) -> str:
        lines = [
            ("state", self.state),
            ("path", str(self.path or "")),
            ("trouble", self.trouble or ""),
            ("written", f"{self.written_rows:,} rows in {self.transactions:,} transactions"),
            ("duplicates", f"{self.duplicate_rows:,}" if self.duplicate_rows else ""),
            ("waiting", f"{self.queued_rows:,}" if self.queued_rows else ""),
            ("dropped", ", ".join(f"{rows:,} {why.replace('_', ' ')}" for why, rows in self.dropped_rows.items())),
        ]
        return "\n".join(f"{name:<10}  {text}" for name, text in lines if text)
