"""Where memory goes: measured layer by layer."""

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

__all__ = [
    "LAYER_COLUMNS",
    "CacheUse",
    "Figure",
    "History",
    "LayerUse",
    "MemoryEvent",
    "MemoryReport",
    "MlxMemory",
    "ModelMemory",
    "Peak",
    "ProcessMemory",
    "RequestMemory",
    "Sampling",
    "StoreMemory",
]
