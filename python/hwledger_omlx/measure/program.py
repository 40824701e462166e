"""The program whose `serve` and `rpc` are measured: the wheel's command, or the Rust host."""

import os
import shutil
import sys
from pathlib import Path

from hwledger_omlx.errors import HarnessError

HOST = "hwledger-omlx-host"
WHEEL = "hwledger-omlx"


def find_host(given: Path | None) -> Path:
    """The host's program: the one given, one on the path, or one that cargo built in the checkout of this package.

    Raises:
        HarnessError: there is none.
    """
    if given is not None:
        if not os.access(given, os.X_OK):
            raise HarnessError(f"{given} is no program; name the host's with --host-binary")
        return given
    built = [folder / "target" / kind / HOST for folder in Path(__file__).parents for kind in ("release", "debug")]
    found = shutil.which(HOST) or next((each for each in built if os.access(each, os.X_OK)), None)
    if found is None:
        raise HarnessError(
            f"there is no {HOST} to measure: build it with `cargo build --release -p hwledger-omlx-host` in a "
            "checkout, or name it with --host-binary"
        )
    return Path(found)


def command(host: Path | None) -> list[str]:
    """The beginning of a command line of the host's program, or of the wheel's command in this interpreter.

    Raises:
        HarnessError: the host's is no program.
    """
    return [sys.executable, "-m", "hwledger_omlx.cli"] if host is None else [str(find_host(host).absolute())]
