"""Where memory goes: measured layer by layer, predicted, reconciled."""

from hwledger_omlx.memory.ledger import Ledger, LedgerSettings, fitted_runtime
from hwledger_omlx.memory.ledger_reconcile import Drift, ModelErrors, RuntimeFit, TermError
from hwledger_omlx.memory.ledger_row import LedgerRow
from hwledger_omlx.memory.ledger_stats import LedgerStats
from hwledger_omlx.memory.plan import Plan, predict
from hwledger_omlx.memory.records import (
    CacheUse,
    Figure,
    History,
    LayerUse,
    MemoryEvent,
    MlxMemory,
    ModelMemory,
    Peak,
    ProcessMemory,
    RequestMemory,
    Sampling,
    StoreMemory,
)
from hwledger_omlx.memory.report import LAYER_COLUMNS, MemoryReport
from hwledger_omlx.memory.runtime import Runtime

__all__ = [
    "LAYER_COLUMNS",
    "CacheUse",
    "Drift",
    "Figure",
    "History",
    "LayerUse",
    "Ledger",
    "LedgerRow",
    "LedgerSettings",
    "LedgerStats",
    "MemoryEvent",
    "MemoryReport",
    "MlxMemory",
    "ModelErrors",
    "ModelMemory",
    "Peak",
    "Plan",
    "ProcessMemory",
    "RequestMemory",
    "Runtime",
    "RuntimeFit",
    "Sampling",
    "StoreMemory",
    "TermError",
    "fitted_runtime",
    "predict",
]
