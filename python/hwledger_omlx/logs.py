"""One environment variable, `HWLEDGER_OMLX_LOG`, sets the level of what Rust and Python have to say.

Rust's tracing events arrive in Python's `logging` (see rust/extension/src/logs.rs); this sets the level there.
"""

import logging
import os

from hwledger_omlx._native import log_level_changed

VARIABLE = "HWLEDGER_OMLX_LOG"
_LEVELS = {"trace": 5, "debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40, "critical": 50, "off": 100}
_OURS = ("hwledger_omlx", "hwledger_omlx_core", "hwledger_omlx_extension", "omlx", "uvicorn")


def configure(*, to_stderr: bool = False, level: str = "") -> int:
    """Applies the variable to our loggers, Rust's and the fork's, and returns the level in force.

    Args:
        level: in place of the variable.
        to_stderr: also give the root logger a handler, for a program of ours; a library leaves handlers to its user.
    """
    for name in (
        "omlx.engine_core",
        "omlx.process_memory_enforcer",
        "omlx.server",
        "transformers.tokenization_utils_base",
    ):
        logging.getLogger(name).addFilter(_unhelpful)
    given = level or os.environ.get(VARIABLE, "").strip().lower()
    number = _LEVELS.get(given, logging.WARNING)
    if to_stderr:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        # What other libraries have to say at DEBUG drowns ours; they stay at WARNING or above.
        logging.getLogger().setLevel(max(number, logging.WARNING))
    if given or to_stderr:
        for name in _OURS:
            logging.getLogger(name).setLevel(number)
    if level:
        log_level_changed(given)
    if given and given not in _LEVELS:
        known = ", ".join(_LEVELS)
        logging.getLogger("hwledger_omlx").warning("%s=%s is no level; known are %s", VARIABLE, given, known)
    return number


_UNHELPFUL = (
    # The fork, at each engine's start, where MLX refuses a default stream: nobody can do anything.
    "set_default_stream unavailable",
    # transformers, of a long prompt: whether it fits the model is checked, and said as a RequestError.
    "Token indices sequence length is longer",
    # The fork's server, at its start: of its own folder of models, and of a counter that only macOS has.
    "No models found in",
    "External-growth guard INERT",
)


def _unhelpful(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_UNHELPFUL)
