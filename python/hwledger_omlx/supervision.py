"""The supervisor process, as Python begins it, and how a process knows that it is supervised.

The supervisor itself is Rust (rust/core/src/supervise); the host begins it without Python.
"""

import os
import sys

from hwledger_omlx._native import HEARTBEAT_VARIABLE, supervise


def supervise_this_command(*, restart_after_s: float) -> int:
    """Runs this process's own command line in a child, again and again while that gets stuck; the last one's exit code.

    Args:
        restart_after_s: how long the child may be stuck, or go without a heartbeat.

    Raises:
        EngineError: the child cannot be started.
    """
    return supervise(sys.executable, sys.orig_argv[1:], restart_after_s=restart_after_s)


def is_supervised() -> bool:
    """Whether a supervisor has started this process."""
    return HEARTBEAT_VARIABLE in os.environ


def pipe_to_supervisor() -> int | None:
    """The writing end of the heartbeat, for one owner in the process; None where nobody supervises it."""
    given = os.environ.pop(HEARTBEAT_VARIABLE, "")
    if not given.isdecimal():
        return None
    try:
        os.set_inheritable(int(given), False)
    except OSError:
        return None
    return int(given)
