"""Contestants in processes: the protocol, and every way in which one can fail."""

import sys
from pathlib import Path
from typing import Any

import pytest

from hwledger_omlx.errors import HarnessError
from hwledger_omlx.measure import WorkerProcess

CONTESTANT = '''
"""A contestant for tests."""
import os, signal, sys, threading
from contextlib import contextmanager

@contextmanager
def open_it(options):
    if options.get("fail"):
        raise ValueError("no such model")
    print("a library prints")
    calls = 0
    def answer(request):
        nonlocal calls
        calls += 1
        kind = request.get("do")
        if kind == "raise":
            raise RuntimeError("it broke")
        if kind == "die":
            print("the reason it died", file=sys.stderr, flush=True)
            os._exit(3)
        if kind == "abort":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hang":
            threading.Event().wait()
        if kind == "nan":
            return float("nan")
        return {"calls": calls, "options": options, "bare": not any(m.startswith("hwledger_omlx") for m in sys.modules),
                "seen": os.environ.get("SEEN")}
    try:
        yield answer
    finally:
        if "closed" in options:
            open(options["closed"], "w").close()
'''


@pytest.fixture
def target(tmp_path: Path) -> str:
    file = tmp_path / "contestant.py"
    file.write_text(CONTESTANT, encoding="utf-8")
    return f"{file}:open_it"


def test_opened_once_and_asked_again_and_again(target: str, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    with WorkerProcess("ours", target, {"closed": str(closed)}, env={"SEEN": "yes"}) as worker:
        first: dict[str, Any] = worker.call({})
        second = worker.call({})
        assert not closed.exists()
    assert (first["calls"], second["calls"]) == (1, 2)
    assert first["options"] == {"closed": str(closed)}
    assert first["seen"] == "yes"
    assert closed.exists()


def test_its_process_imports_nothing_of_ours(target: str) -> None:
    with WorkerProcess("bare", target) as worker:
        assert worker.call({})["bare"] is True


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"do": "die"}, "(?s)'ours' died: its process ended with code 3.*the reason it died"),
        ({"do": "abort"}, "'ours' died: its process was ended by signal 9"),
        ({"do": "raise"}, "(?s)'ours' failed: RuntimeError: it broke.*Traceback"),
        ({"do": "nan"}, "'ours' failed: ValueError"),
    ],
)
def test_a_failure_is_a_harness_error_with_the_end_of_its_stderr(
    target: str, request_: dict[str, str], said: str
) -> None:
    with WorkerProcess("ours", target) as worker:
        worker.call({})
        with pytest.raises(HarnessError, match=said):
            worker.call(request_)
        with pytest.raises(HarnessError, match="'ours'"):
            worker.call({})


def test_a_contestant_that_does_not_open(target: str) -> None:
    with pytest.raises(HarnessError, match="'ours' failed: ValueError: no such model"):
        WorkerProcess("ours", target, {"fail": True}).__enter__()


@pytest.mark.parametrize("wrong", ["no_such_module_of_ours:open_it", "json:no_such_function"])
def test_a_target_that_is_none(wrong: str) -> None:
    with pytest.raises(HarnessError, match="'ours' failed"):
        WorkerProcess("ours", wrong).__enter__()


def test_no_answer_in_time(target: str) -> None:
    with WorkerProcess("ours", target) as worker:
        worker.call({})
        worker._timeout_s = 0.05
        with pytest.raises(HarnessError, match=r"gave no answer in 0\.05 s"):
            worker.call({"do": "hang"})


def test_no_interpreter(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(HarnessError, match="cannot start a process for contestant 'ours'"):
        WorkerProcess("ours", target).__enter__()


def test_asked_when_closed(target: str) -> None:
    worker = WorkerProcess("ours", target)
    with worker:
        pass
    worker.close()
    with pytest.raises(HarnessError, match="is not running"):
        worker.call({})
