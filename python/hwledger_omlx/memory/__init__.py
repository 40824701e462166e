"""Memory of models and requests: measured, predicted, reconciled."""

from hwledger_omlx.memory.ledger import Ledger, LedgerSettings, fitted_runtime
from hwledger_omlx.memory.ledger_reconcile import Drift, ModelErrors, Runtime, RuntimeFit, TermError
from hwledger_omlx.memory.ledger_row import LedgerRow
from hwledger_omlx.memory.ledger_stats import LedgerStats

__all__ = [
    "Drift",
    "Ledger",
    "LedgerRow",
    "LedgerSettings",
    "LedgerStats",
    "ModelErrors",
    "Runtime",
    "RuntimeFit",
    "TermError",
    "fitted_runtime",
]
