"""The exception tree. The classes that Rust raises too come from the extension; the rest refine them.

Every one is a `hwledger_omlx.Error`; its message says what was wrong and what to do.
"""

from hwledger_omlx._native import (
    ConfigError,
    EngineError,
    Error,
    ForeignFolderError,
    ForkError,
    HarnessError,
    KvPolicyError,
    LedgerClosedError,
    LedgerError,
    LedgerFormatError,
    LedgerLockedError,
    LedgerNotFoundError,
    ModelError,
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

__all__ = [
    "ConfigError",
    "EngineClosedError",
    "EngineError",
    "Error",
    "ForeignFolderError",
    "ForkError",
    "ForkNotFoundError",
    "HarnessError",
    "KvPolicyError",
    "KvProfileError",
    "KvProfileNotFoundError",
    "KvTextError",
    "LedgerClosedError",
    "LedgerError",
    "LedgerFormatError",
    "LedgerLockedError",
    "LedgerNotFoundError",
    "MemoryReportError",
    "ModelError",
    "ModelNotFoundError",
    "ModelTaskError",
    "RequestError",
    "SeriesError",
    "StoreClosedError",
    "StoreConfigError",
    "StoreError",
    "StoreFormatError",
    "StoreIOError",
    "StoreInUseError",
    "StoreNotFoundError",
    "StoreWriteError",
]


class ForkNotFoundError(ForkError, ModuleNotFoundError):
    """No importable `omlx` where it was looked for."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """No model folder at that place, and none to be had from the hub."""


class ModelTaskError(RequestError, ModelError):
    """The model is not of the kind that does what was asked for."""


class EngineClosedError(EngineError):
    """The engine was closed before or while it worked on the request."""


class KvProfileError(Error):
    """A file that should hold what calibration measured of a model, and does not."""


class KvProfileNotFoundError(KvProfileError, FileNotFoundError):
    """The model has not been calibrated."""


class KvTextError(Error):
    """No text to calibrate on, or too little of it."""


class MemoryReportError(Error, ValueError):
    """What should be a memory report is none, or of a version that cannot be read."""
