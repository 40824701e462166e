"""oMLX's engine in-process, with a KV cache that outlives the process.

import hwledger_omlx as hw

with hw.Engine("path/to/model") as engine:
    print(engine.generate("Once upon a time", max_tokens=64).text)
"""

from hwledger_omlx import logs as _logs
from hwledger_omlx._native import KvPolicy, __version__
from hwledger_omlx.cache import Cache, CacheStats, PagedCache
from hwledger_omlx.engine.answers import Embeddings, RankedDocument, Ranking, Speech, Transcription
from hwledger_omlx.engine.asynchronous import AsyncEngine
from hwledger_omlx.engine.blocking import Engine
from hwledger_omlx.engine.config import EngineConfig
from hwledger_omlx.engine.events import (
    DoneEvent,
    Event,
    Generation,
    Message,
    ProgressEvent,
    Timings,
    TokenEvent,
    ToolCall,
    Usage,
)
from hwledger_omlx.errors import (
    ConfigError,
    EngineClosedError,
    EngineError,
    Error,
    ForeignFolderError,
    ForkError,
    ForkNotFoundError,
    HarnessError,
    KvPolicyError,
    KvProfileError,
    KvProfileNotFoundError,
    KvTextError,
    LedgerClosedError,
    LedgerError,
    LedgerFormatError,
    LedgerLockedError,
    LedgerNotFoundError,
    MemoryReportError,
    ModelError,
    ModelNotFoundError,
    ModelTaskError,
    RequestError,
    SeriesError,
    StoreClosedError,
    StoreConfigError,
    StoreError,
    StoreFormatError,
    StoreInUseError,
    StoreIOError,
    StoreNotFoundError,
    StoreWriteError,
)
from hwledger_omlx.memory import MemoryEvent, MemoryReport
from hwledger_omlx.memory.plan import Plan, plan

_logs.configure()

__all__ = [
    "AsyncEngine",
    "Cache",
    "CacheStats",
    "ConfigError",
    "DoneEvent",
    "Embeddings",
    "Engine",
    "EngineClosedError",
    "EngineConfig",
    "EngineError",
    "Error",
    "Event",
    "ForeignFolderError",
    "ForkError",
    "ForkNotFoundError",
    "Generation",
    "HarnessError",
    "KvPolicy",
    "KvPolicyError",
    "KvProfileError",
    "KvProfileNotFoundError",
    "KvTextError",
    "LedgerClosedError",
    "LedgerError",
    "LedgerFormatError",
    "LedgerLockedError",
    "LedgerNotFoundError",
    "MemoryEvent",
    "MemoryReport",
    "MemoryReportError",
    "Message",
    "ModelError",
    "ModelNotFoundError",
    "ModelTaskError",
    "PagedCache",
    "Plan",
    "ProgressEvent",
    "RankedDocument",
    "Ranking",
    "RequestError",
    "SeriesError",
    "Speech",
    "StoreClosedError",
    "StoreConfigError",
    "StoreError",
    "StoreFormatError",
    "StoreIOError",
    "StoreInUseError",
    "StoreNotFoundError",
    "StoreWriteError",
    "Timings",
    "TokenEvent",
    "ToolCall",
    "Transcription",
    "Usage",
    "__version__",
    "plan",
]
