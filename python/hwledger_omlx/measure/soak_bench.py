"""`bench soak`: a server as a process, clients that talk to it for minutes, and what it holds before and after.

The server has a small cache, so that the store evicts, and few bytes of hot tier, so that its memory has a limit.
"""

import asyncio
import contextlib
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from hwledger_omlx.engine import model_folder
from hwledger_omlx.errors import HarnessError
from hwledger_omlx.measure.bars import Bar, Better, Result
from hwledger_omlx.measure.environment import environment
from hwledger_omlx.measure.program import HOST, WHEEL, command
from hwledger_omlx.measure.report import Report
from hwledger_omlx.measure.soak_clients import Clients, Tally
from hwledger_omlx.models import NOTES

OnSecond = Callable[[int, int, str], None]
"""Told of seconds gone, seconds in all, and what is at work."""

_QUOTA, _HOT = "64MiB", "16MiB"
_START_SHARE = 0.1
"""Of the time that the server has to come to its size."""
_START_S, _IDLE_S, _END_S = 120.0, 60.0, 60.0
_RSS_BAR = Bar.ratio_at_most(1.05)
_NONE = Bar.value_at_most(0)


@dataclass(frozen=True, slots=True)
class Held:
    """What the server holds at a moment."""

    resident_bytes: int
    threads: int
    blocks: float
    """Of the cache."""
    under_way: float
    """Requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakBench:
    """What to measure."""

    model: str | Path = NOTES
    seconds: int = 600
    clients: int = 24
    seed: int = 0
    host: Path | None = None
    """The host's program, to measure that one's `serve`; None for the wheel's."""

    def run(self, on_second: OnSecond | None = None) -> Report:
        """Measures, and returns the report.

        Raises:
            ModelError: no such model.
            HarnessError: impossible options, or the server ended.
        """
        if self.seconds < 1 or self.clients < 1:
            raise HarnessError("give at least 1 second and 1 client")
        around = environment()
        folder = model_folder.locate(self.model)
        with (
            tempfile.TemporaryDirectory(prefix="hwledger-bench-") as scratch,
            _server(command(self.host), folder.path, Path(scratch)) as (url, process),
        ):
            clients = Clients(url, folder.model_id, self.seed)
            held = self._soak(clients, url, process, on_second)
        notes = [
            f"Model {folder.model_id} ({folder.model_type}); {self.clients} clients for {self.seconds} s, seed "
            f"{self.seed}: 5 % of their requests must be refused, 5 % are given up before the first token, if it takes "
            "up to a second, 15 % in the middle, where the answer is that long, and 5 % are read slowly. Cache of "
            f"{_QUOTA}, {_HOT} of them in RAM. `serve` of {WHEEL if self.host is None else HOST}.",
            *(f"error: {each}" for each in sorted(set(clients.tally.errors))[:5]),
        ]
        results = self.results(clients.tally, held)
        return Report("bench soak", f"a server of {self.clients} clients for {self.seconds} s", results, around, notes)

    def _soak(self, clients: Clients, url: str, process: psutil.Process, on_second: OnSecond | None) -> list[Held]:
        failure: list[BaseException] = []

        def talk() -> None:
            try:
                asyncio.run(clients.run(self.clients, self.seconds))
            except BaseException as error:  # noqa: BLE001
                failure.append(error)  # raised again below

        talking = threading.Thread(target=talk, name="soak-clients")
        begin_s = time.monotonic()
        talking.start()
        moments = [self.seconds * _START_SHARE, self.seconds / 2]
        held: list[Held] = []
        while talking.is_alive():
            talking.join(timeout=1)
            gone_s = time.monotonic() - begin_s
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                talking.join()
                raise HarnessError("the server ended while its clients talked")
            if moments and gone_s >= moments[0]:
                moments.pop(0)
                held.append(_held(url, process))
            if on_second is not None:
                on_second(min(int(gone_s), self.seconds), self.seconds, f"{clients.tally.requests} requests")
        if failure:
            raise HarnessError(f"the clients failed: {failure[0]!r}") from failure[0]
        deadline_s = time.monotonic() + _IDLE_S
        last = _held(url, process)
        while last.under_way and time.monotonic() < deadline_s:
            time.sleep(0.2)
            last = _held(url, process)
        # Of a short run the first moments are its end.
        return [*held, *[last] * (3 - len(held))]

    def results(self, tally: Tally, held: Sequence[Held]) -> list[Result]:
        """The lines of the report.

        Args:
            tally: of the clients.
            held: at the start, in the middle and at the end.
        """
        start, middle, end = held
        shares = sorted(tally.ttft_s)
        found = [
            _line("requests", tally.requests, "requests", "higher"),
            _line("left by their client", tally.cancelled, "requests", "higher"),
            _line("refused, as they had to be", tally.refused, "requests", "higher"),
            _line("errors", len(tally.errors), "requests", "lower", _NONE),
            _line("tokens read", tally.tokens / self.seconds, "tokens/s", "higher"),
        ]
        found += [
            _line(f"TTFT, p{share}", shares[min(len(shares) - 1, len(shares) * share // 100)], "s", "lower")
            for share in (50, 90, 99)
            if shares
        ]
        for name, at in (("start", start), ("middle", middle), ("end", end)):
            found.append(_line(f"resident memory, {name}", at.resident_bytes, "B", "lower"))
        found.append(
            Result(
                name="resident memory, end against middle",
                value=end.resident_bytes,
                against=middle.resident_bytes,
                ratio=end.resident_bytes / middle.resident_bytes,
                ratio_is="value/against",
                unit="B",
                better="lower",
                bar=_RSS_BAR,
            )
        )
        for name, at in (("start", start), ("middle", middle), ("end", end)):
            found.append(_line(f"threads, {name}", at.threads, "threads", "lower"))
        found.append(
            _line("threads more at the end than in the middle", end.threads - middle.threads, "", "lower", _NONE)
        )
        for name, at in (("start", start), ("middle", middle), ("end", end)):
            found.append(_line(f"blocks in the cache, {name}", at.blocks, "blocks", "higher"))
        found.append(_line("requests under way after all clients left", end.under_way, "requests", "lower", _NONE))
        return found


def _line(name: str, value: float, unit: str, better: Better, bar: Bar | None = None) -> Result:
    return Result(name=name, value=float(value), unit=unit, better=better, bar=bar)


@contextlib.contextmanager
def _server(program: Sequence[str], model: Path, scratch: Path) -> Iterator[tuple[str, psutil.Process]]:
    options = ["--port", "0", "--cache-dir", str(scratch / "kv"), "--shutdown-seconds", "5"]
    sizes = ["--paged-ssd-cache-max-size", _QUOTA, "--hot-cache-max-size", _HOT]
    with subprocess.Popen(
        [*program, "serve", str(model), *options, *sizes],
        env={**os.environ, "HWLEDGER_OMLX_HOME": str(scratch / "home"), "HWLEDGER_OMLX_LOG": "critical"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            url, serves, _ = _first_line(process).partition(" serves ")
            if not serves:
                raise HarnessError(f"the server did not start; `{program[-1]} serve` says why")
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _first_line(process: "subprocess.Popen[str]") -> str:
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    assert process.stdout is not None  # noqa: S101
    threading.Thread(target=lambda out=process.stdout: lines.put(out.readline()), daemon=True).start()
    try:
        return lines.get(timeout=_START_S)
    except queue.Empty:
        return ""


def _held(url: str, process: psutil.Process) -> Held:
    text = httpx.get(f"{url}/metrics", timeout=60).raise_for_status().text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    with process.oneshot():
        return Held(
            process.memory_info().rss,
            process.num_threads(),
            found.get("hwledger_cache_blocks", 0.0),
            found.get("hwledger_requests_running", 0.0) + found.get("hwledger_requests_waiting", 0.0),
        )
