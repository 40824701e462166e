"""Memory of models and requests: measured, predicted, reconciled."""

from hwledger_omlx.memory.ledger import Ledger, LedgerSettings
from hwledger_omlx.memory.ledger_row import LedgerRow
from hwledger_omlx.memory.ledger_stats import LedgerStats

__all__ = ["Ledger", "LedgerRow", "LedgerSettings", "LedgerStats"]
