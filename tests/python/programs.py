"""The program under test: the wheel's command, or the Rust host where HWLEDGER_OMLX_TEST_HOST names its binary."""

import os
import sys


def program(command: str) -> tuple[str, ...]:
    """The beginning of a command line: `program("rpc")` is `hwledger-omlx rpc`, or `hwledger-omlx-host rpc`.

    The host takes the environment of Python that the tests run in.
    """
    host = os.environ.get("HWLEDGER_OMLX_TEST_HOST")
    return (host, command, "--venv", sys.prefix) if host else (sys.executable, "-m", "hwledger_omlx.cli", command)
