"""A client of `hwledger-omlx rpc` as a process of its own, for tests. Its requests are made by a package."""

import contextlib
import fcntl
import json
import os
import queue
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonrpcclient

from programs import program

COMMAND = program("rpc")
PATIENCE_S = 120


_RELAY = """
import os, select, sys
to, fro = map(int, sys.argv[1:])
goes_to = {0: to, fro: 1}
while goes_to:
    for each in select.select(list(goes_to), [], [])[0]:
        said = os.read(each, 65536)
        if each == 0 and said == b"hang up":
            del goes_to[fro]
            os.close(fro)
            break
        elif said:
            os.write(goes_to[each], said)
        else:
            os.close(goes_to.pop(each))
"""


class Client:
    """Sends what `jsonrpcclient` makes, and sorts what comes: answers by id, notifications in order.

    Args:
        arguments: of the command line.
        home: the program's.
        command: the beginning of the command line.
        stderr: where its standard error goes; without, `errors` has it.
        relayed: whether a process of its own has the client's ends of the pipes, so that it can be killed.
        environment: more variables.
    """

    def __init__(
        self,
        *arguments: object,
        home: Path,
        command: Sequence[str] = COMMAND,
        stderr: int = subprocess.PIPE,
        relayed: bool = False,
        **environment: str,
    ) -> None:
        reading, to = os.pipe()
        fro, writing = os.pipe()
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            env={**os.environ, "HWLEDGER_OMLX_HOME": str(home), "PYTHONWARNINGS": "ignore", **environment},
            stdin=reading,
            stdout=writing,
            stderr=stderr,
        )
        os.close(reading)
        os.close(writing)
        self.relay: subprocess.Popen[bytes] | None = None
        if relayed:
            self.relay = subprocess.Popen(
                [sys.executable, "-c", _RELAY, str(to), str(fro)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(to, fro),
            )
            os.close(to)
            os.close(fro)
            assert self.relay.stdin is not None
            assert self.relay.stdout is not None
            self.input, self.output = self.relay.stdin, self.relay.stdout
        else:
            self.input, self.output = os.fdopen(to, "wb"), os.fdopen(fro, "rb")
        self.unsorted: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.answers: dict[Any, Any] = {}
        self.notifications: list[Any] = []
        self.faults = 0
        """Answers to what was no request."""
        self._may_read = threading.Event()
        self._may_read.set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.output:
            self.unsorted.put(json.loads(line))
            self._may_read.wait()
        self.unsorted.put(None)

    def send(self, *messages: object) -> None:
        self.send_bytes(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def send_bytes(self, sent: bytes) -> None:
        self.input.write(sent)
        self.input.flush()

    def take(self) -> Any:
        """The next message."""
        message = self.unsorted.get(timeout=PATIENCE_S)
        if isinstance(message, dict) and "method" in message:
            self.notifications.append(message)
        elif isinstance(message, dict):
            self.answers[message["id"]] = message
            self.faults += message["id"] is None
        return message

    def answer(self, request_id: Any) -> Any:
        while request_id not in self.answers:
            assert self.take() is not None, self.errors()
        return jsonrpcclient.parse(self.answers.pop(request_id))

    def call(self, method: str, params: Mapping[str, Any] | list[Any] | None = None) -> Any:
        request = jsonrpcclient.request(method, params)
        self.send(request)
        return self.answer(request["id"])

    def result(self, method: str, **params: Any) -> Any:
        answered = self.call(method, params)
        assert isinstance(answered, jsonrpcclient.Ok), answered
        return answered.result

    def until(self, reached: Callable[[Any], bool]) -> Any:
        while True:
            message = self.take()
            assert message is not None, self.errors()
            if reached(message):
                return message

    def text(self, request_id: str) -> str:
        tokens = [each["params"] for each in self.notifications if each["method"] == "token"]
        return "".join(each["text"] for each in tokens if each["request_id"] == request_id)

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def end(self) -> tuple[int, str]:
        """Closes its input and awaits it."""
        self.input.close()
        return self.ended()

    def ended(self) -> tuple[int, str]:
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code, self.errors()

    def stop_reading(self) -> None:
        """Until `read_on`; a line that is being read already is read to its end."""
        self._may_read.clear()

    def is_behind(self) -> bool:
        """Whether its pipe is full, or nearly so."""
        waiting = bytearray(4)
        fcntl.ioctl(self.output.fileno(), termios.FIONREAD, waiting)
        return int.from_bytes(waiting, sys.byteorder) > 32 * 1024

    def read_on(self) -> None:
        self._may_read.set()

    def hang_up(self) -> None:
        """Closes its output; of a client that is relayed."""
        self.send_bytes(b"hang up")

    def die(self) -> None:
        """Closes both at once, as the end of a process does; of a client that is relayed."""
        assert self.relay is not None
        self.relay.kill()
        self.relay.wait()

    def kill(self) -> None:
        for process in (self.relay, self.process):
            if process is not None:
                process.kill()
                process.wait()
        self.read_on()
        self._reader.join(PATIENCE_S)
        for pipe in (self.input, self.output, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
