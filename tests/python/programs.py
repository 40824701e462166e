"""The program under test: the wheel's command, or the Rust host where HWLEDGER_OMLX_TEST_HOST names its binary.

And the wheel's command in a process that a signal can make hang in a place of the test's choice.
"""

import os
import sys

_DRIVER = """
import os, signal, sys, threading, time
from hwledger_omlx import cli

def hang(*_):
    print("hangs", flush=True)
    time.sleep(3600)

def hang_in_a_step(*_):
    from omlx.scheduler import Scheduler
    Scheduler.step = hang

place = os.environ.get("HANGS_IN")
signal.signal(signal.SIGUSR1, hang_in_a_step)
if place == "load":
    from hwledger_omlx.engine import upstream
    upstream.load_model = hang
if place == "flush":
    from hwledger_omlx.engine.kv_cache import KvCache
    KvCache.close = hang
if "TO_CLOSE_S" in os.environ:
    from hwledger_omlx import signals
    signals.TO_CLOSE_S = float(os.environ["TO_CLOSE_S"])
sys.exit(cli.run(sys.argv[1:]))
"""


def program(command: str) -> tuple[str, ...]:
    """The beginning of a command line: `program("rpc")` is `hwledger-omlx rpc`, or `hwledger-omlx-host rpc`.

    The host takes the environment of Python that the tests run in.
    """
    host = os.environ.get("HWLEDGER_OMLX_TEST_HOST")
    return (host, command, "--venv", sys.prefix) if host else (sys.executable, "-m", "hwledger_omlx.cli", command)


def hanging_program(command: str) -> tuple[str, ...]:
    """As `program`, of the wheel, and its engine hangs in its next step once it gets SIGUSR1.

    Its environment may name another place in HANGS_IN, `load` or `flush`, where it hangs without a signal; and in
    TO_CLOSE_S the seconds that its engine may take to close. Before it hangs, it says so.
    """
    return (sys.executable, "-c", _DRIVER, command)
