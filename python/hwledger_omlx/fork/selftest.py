"""The process in which a self-test runs: `python -m hwledger_omlx.fork.selftest`. Started by `prove.py`.

It loads the fork with the hooks named, proven or not, and writes what came out to a file: upstream prints as it likes.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from hwledger_omlx.fork import threads
from hwledger_omlx.fork.load import load_unproven
from hwledger_omlx.fork.prove import one_line
from hwledger_omlx.fork.series import Series


def _outcome(arguments: argparse.Namespace) -> str | None:
    series = Series.of_folder(arguments.series) if arguments.series else Series.shipped()
    loaded = load_unproven(arguments.fork, series, frozenset(arguments.hook))
    tested = [hook for hook in series.hooks if hook.id in arguments.hook]
    for hook in tested:
        # A hook that its self-test does not come by would pass without ever being applied.
        importlib.import_module(hook.target.partition(":")[0])
    (place,) = {hook.self_test for hook in tested}
    module, _, function = place.partition(":")
    said: Any = getattr(importlib.import_module(module), function)(loaded)
    loaded.confirm()
    refused = [each for each in loaded.hooks if each.id in arguments.hook and each.status == "refused"]
    return one_line(str(said)) if said else "; ".join(each.reason for each in refused) or None


def main() -> int:
    """Runs the self-test of the hooks named and writes `{"failure": null | "why"}` to the result file."""
    parser = argparse.ArgumentParser(description="Runs one self-test of the patch series against a fork.")
    parser.add_argument("--fork", type=Path, required=True)
    parser.add_argument("--hook", action="append", required=True)
    parser.add_argument("--series", type=Path)
    parser.add_argument("--result", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        failure = _outcome(arguments)
    except Exception as error:  # noqa: BLE001
        # A self-test fails by raising whatever the fork raises under it.
        failure = one_line(f"{type(error).__name__}: {error}")
    finally:
        threads.release_global_thread()
    arguments.result.write_text(json.dumps({"failure": failure}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
