"""The process of one contestant: opens it once, then answers one JSON line on standard output for each on its input.

Run as a file (`python -P worker.py TARGET`), not as a module: so it imports nothing of hwledger_omlx by itself, and the
bare fork is measured as bare as it is. Standard library only; knows nothing of what it measures.

TARGET is `module:function` or `path/to/file.py:function`. `function(options)` gives a context manager, whose value is
called once a request. In: `{"open": OPTIONS}` first, then `{"call": OPTIONS}`. Out: `{"answer": ...}` to each (the
answer to `open` is null), or `{"error": "Type: message"}`, with the traceback on standard error. The end of standard
input closes the contestant and ends the process.
"""

import importlib
import importlib.util
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

Answer = Callable[[dict[str, Any]], Any]
Open = Callable[[dict[str, Any]], AbstractContextManager[Answer]]


def load(target: str) -> Open:
    """The function that `target` names."""
    place, _, name = target.rpartition(":")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        if spec is None or spec.loader is None:
            raise ImportError(f"cannot load {place}")
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their module up by name.
        sys.modules[module.__name__] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    function: Open = getattr(module, name)
    return function


def serve(target: str, requests: IO[str], answers: IO[str]) -> None:
    """Speaks the protocol until `requests` ends."""

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message, allow_nan=False) + "\n")
        answers.flush()

    first = requests.readline()
    if not first:
        return
    try:
        contestant = load(target)(json.loads(first)["open"])
        with contestant as answer:
            say({"answer": None})
            for line in requests:
                say({"answer": answer(json.loads(line)["call"])})
    except Exception as error:
        # The traceback first: the harness reads it as soon as it hears of the error.
        traceback.print_exc()
        say({"error": f"{type(error).__name__}: {error}"})
        raise SystemExit(1) from error


def main() -> None:
    """Keeps standard output for the protocol: what libraries print goes to standard error."""
    # Ctrl-C reaches the whole process group; the harness ends this process by closing its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin, answers)


if __name__ == "__main__":
    main()
