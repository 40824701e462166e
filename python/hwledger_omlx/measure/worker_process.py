"""The harness's end of a contestant that needs a process of its own. Knows the protocol of `worker.py`, no more."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

from hwledger_omlx.errors import HarnessError

_WORKER = Path(__file__).with_name("worker.py")
_TAIL_BYTES = 4000
_TAIL_LINES = 20


class WorkerProcess:
    """A contestant in a process: opened once with the model loaded, then asked once a turn, and halted between turns.

    Halted, since even an engine without work polls, and on a small machine that takes from the other's turn what it is
    measured by. Use it as a context manager; leaving it ends the process.
    """

    def __init__(
        self,
        name: str,
        target: str,
        options: Mapping[str, Any] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        """Describes the process; `__enter__` starts it.

        Args:
            name: the contestant's name, for messages.
            target: `module:function` or `path/to/file.py:function`, see `worker.py`.
            options: JSON-able argument of that function.
            env: variables set on top of this process's own.
            timeout_s: seconds that opening, or one answer, may take before the process is given up.
        """
        self.name = name
        self._target = target
        self._options = dict(options or {})
        self._env = {**os.environ, **(env or {})}
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader: threading.Thread | None = None
        self._stderr: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """Starts the process and opens the contestant.

        Raises:
            HarnessError: it does not start or does not open; with the end of its standard error.
        """
        self._stderr = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_WORKER), self._target],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=self._env,
                text=True,
                encoding="utf-8",
            )
        except OSError as error:
            self._stderr.close()
            raise HarnessError(f"cannot start a process for contestant {self.name!r}: {error}") from error
        self._reader = threading.Thread(target=self._read_answers, args=(self._process,), daemon=True)
        self._reader.start()
        try:
            self._ask({"open": self._options})
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends the process; quickly where the run ends in an error or Ctrl-C and its answer is not wanted."""
        self.close(grace_s=10.0 if kind is None else 1.0)

    def call(self, options: Mapping[str, Any]) -> Any:
        """One turn: the contestant's answer to `options`.

        Raises:
            HarnessError: the contestant failed, died, or took too long; with the end of its standard error.
        """
        return self._ask({"call": dict(options)})

    def close(self, grace_s: float = 10.0) -> None:
        """Ends the process: asks it to, and kills it where it has not gone after `grace_s`. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            try:
                if process.stdin is not None:
                    process.stdin.close()
            except OSError:
                pass  # It died with a request unread; there is nothing left to tell it.
            try:
                process.wait(timeout=grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._reader is not None:
            # Not for ever: a process that the contestant left behind may hold the pipe open.
            self._reader.join(timeout=1.0)
            self._reader = None
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def _read_answers(self, process: subprocess.Popen[str]) -> None:
        if process.stdout is not None:
            with process.stdout as lines:
                for line in lines:
                    self._answers.put(line)
        self._answers.put(None)

    def _ask(self, message: Mapping[str, Any]) -> Any:
        process = self._process
        if process is None or process.stdin is None:
            raise HarnessError(f"contestant {self.name!r} is not running")
        process.send_signal(signal.SIGCONT)
        try:
            process.stdin.write(json.dumps(message, allow_nan=False) + "\n")
            process.stdin.flush()
            line = self._answers.get(timeout=self._timeout_s)
        except OSError:
            line = None
        except queue.Empty:
            process.kill()
            raise HarnessError(
                f"contestant {self.name!r} gave no answer in {self._timeout_s:g} s{self._tail()}"
            ) from None
        if line is None:
            code = process.wait()
            end = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            raise HarnessError(f"contestant {self.name!r} died: its process {end}{self._tail()}")
        try:
            reply = json.loads(line)
        except ValueError as error:
            raise HarnessError(f"contestant {self.name!r} answered no JSON: {line[:200]!r}{self._tail()}") from error
        process.send_signal(signal.SIGSTOP)
        if "error" in reply:
            raise HarnessError(f"contestant {self.name!r} failed: {reply['error']}{self._tail()}")
        return reply["answer"]

    def _tail(self) -> str:
        """The end of the process's standard error, introduced, or nothing where it wrote nothing."""
        if self._stderr is None:
            return ""
        # Not by seeking: the process writes at the same offset.
        descriptor = self._stderr.fileno()
        size = os.fstat(descriptor).st_size
        end = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        text = end.decode("utf-8", errors="replace").strip()
        return f"; its standard error ends:\n{chr(10).join(text.splitlines()[-_TAIL_LINES:])}" if text else ""
