"""`bench rpc`: how many messages a second JSON-RPC carries, through a real process and its pipes.

Requests go to `rpc` of the wheel's command or of the host, without a model; tokens come from a process that says them
as an engine does, but as fast as it can. This process writes what was made ready before, and counts the lines that come
back.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hwledger_omlx.errors import HarnessError
from hwledger_omlx.measure.bars import Bar, Comparison
from hwledger_omlx.measure.engine_bench import OnTurn
from hwledger_omlx.measure.environment import environment
from hwledger_omlx.measure.harness import Contestant, Measure, Turn, measure_in_turns
from hwledger_omlx.measure.program import HOST, WHEEL, command
from hwledger_omlx.measure.report import Report

CEILING = 20_000.0
"""Messages a second below which JSON would be too slow."""
TOKENS = "tokens"
_METHODS = ("protocol.version", "health")
_AT_A_TIME = "one at a time"
_READ_BYTES = 2**18


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcBench:
    """What to measure."""

    rounds: int = 5
    requests: int = 50_000
    """Of each kind in a turn, and as many tokens."""
    host: Path | None = None
    """The host's program, to measure that one's `rpc`; None for the wheel's."""

    @property
    def _server(self) -> str:
        return f"{WHEEL if self.host is None else HOST} rpc"

    def run(self, on_turn: OnTurn | None = None) -> Report:
        """Measures, and returns the report.

        Raises:
            HarnessError: impossible options, or a process failed.
        """
        if self.rounds < 1 or self.requests < 1:
            raise HarnessError("give at least 1 round and 1 request")
        around = environment()
        server = [*command(self.host), "rpc", "--no-cache"]
        worker = [sys.executable, "-m", "hwledger_omlx.measure.rpc_worker"]
        samples = measure_in_turns(
            [Contestant(self._server, lambda: self._opened(server, self._ask))],
            cases=(*_METHODS, _AT_A_TIME),
            rounds=self.rounds,
            on_turn=on_turn,
        )
        tokens = measure_in_turns(
            [Contestant(TOKENS, lambda: self._opened(worker, self._listen))], rounds=self.rounds, on_turn=on_turn
        )
        samples.values.update(tokens.values)
        results = [samples.compare(comparison) for comparison in _comparisons(self._server)]
        return Report("bench rpc", "JSON-RPC through a process and its pipes", results, around, self._notes())

    def _notes(self) -> list[str]:
        return [
            f"{self.requests:,} requests of each method in a turn, written without waiting for their answers; an "
            f"answer counts, its request does not. {self.requests:,} tokens in a turn, each a notification. Both "
            "processes share the machine's cores.",
        ]

    @contextmanager
    def _opened(
        self, line: Sequence[str], work: Callable[["_Process", Turn], Mapping[str, float]]
    ) -> Iterator[Measure]:
        with (
            tempfile.TemporaryDirectory(prefix="hwledger-bench-") as home,
            _Process(line, Path(home)) as process,
        ):
            process.exchange([_line("nothing", 0)], 1)  # it has started when it answers, whatever that is
            yield lambda turn: work(process, turn)

    def _ask(self, process: "_Process", turn: Turn) -> Mapping[str, float]:
        if turn.case == _AT_A_TIME:
            count = max(1, self.requests // 25)
            took_s = sum(process.exchange([_line(_METHODS[0], number)], 1) for number in range(count))
            return {f"answer_s {turn.case}": took_s / count}
        lines = [_line(turn.case, number) for number in range(self.requests)]
        return {f"per_s {turn.case}": self.requests / process.exchange(lines, self.requests)}

    def _listen(self, process: "_Process", _: Turn) -> Mapping[str, float]:
        asked = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tokens", "params": {"count": self.requests}})
        return {"per_s tokens": self.requests / process.exchange([f"{asked}\n".encode()], self.requests + 1)}


def _line(method: str, number: int) -> bytes:
    return f'{{"jsonrpc":"2.0","id":{number},"method":"{method}"}}\n'.encode()


def _comparisons(server: str) -> list[Comparison]:
    def rate(name: str, measurement: str, contestant: str) -> Comparison:
        return Comparison(
            name=name,
            measurement=measurement,
            unit="/s",
            better="higher",
            contestant=contestant,
            bar=Bar.value_at_least(CEILING),
        )

    return [
        *(rate(f"requests of {method}, answered", f"per_s {method}", server) for method in _METHODS),
        rate("token notifications", "per_s tokens", TOKENS),
        Comparison(
            name=f"a request and its answer, {_AT_A_TIME}",
            measurement=f"answer_s {_AT_A_TIME}",
            unit="s",
            better="lower",
            contestant=server,
        ),
    ]


class _Process:
    """A process with pipes at both ends, and what it says on standard error in a file."""

    def __init__(self, command: Sequence[str], home: Path) -> None:
        self._errors = home / "stderr"
        self._environment = {**os.environ, "HWLEDGER_OMLX_HOME": str(home / "hwledger"), "HOME": str(home)}
        self._command = command

    def __enter__(self) -> "_Process":
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._environment,
                bufsize=0,
            )
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._process.stdin, self._process.stdout):
            if end is not None:
                end.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def exchange(self, lines: Sequence[bytes], answers: int) -> float:
        """Writes the lines and reads so many; the seconds that it took.

        Raises:
            HarnessError: the process ended before.
        """
        text = b"".join(lines)
        writer = threading.Thread(target=self._write, args=(text,), daemon=True)
        began_s = time.perf_counter()
        if len(text) > _READ_BYTES:
            writer.start()
        else:
            self._write(text)
        seen = 0
        while seen < answers:
            read = b"" if self._process.stdout is None else os.read(self._process.stdout.fileno(), _READ_BYTES)
            if not read:
                told = self._errors.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise HarnessError(f"the process ended after {seen} of {answers} messages; it said:\n{told}")
            seen += read.count(b"\n")
        return time.perf_counter() - began_s

    def _write(self, text: bytes) -> None:
        if self._process.stdin is not None:
            try:
                rest = memoryview(text)
                while rest:
                    rest = rest[self._process.stdin.write(rest) or 0 :]
            except OSError:
                pass  # it ended, which the reader finds and says
