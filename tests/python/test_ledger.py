"""The ledger from Python: rows there and back, other processes, a killed one, and files that are no ledger."""

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hwledger_omlx.errors import LedgerClosedError, LedgerError, LedgerFormatError, LedgerNotFoundError
from hwledger_omlx.memory import Ledger
from hwledger_omlx.memory.ledger import default_path
from ledgers import row, without_ids

WRITING = """
import sys, time
from hwledger_omlx.memory import Ledger
from ledgers import row
ledger = Ledger.open(sys.argv[1], patience_s=60)
print("open", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    assert ledger.record(row(f"{sys.argv[2]} {number}"))
    if number % 10 == 9:
        ledger.flush()
        print(number + 1, flush=True)
ledger.close()
print(ledger.stats().written_rows, flush=True)
"""


def writing(path, name, rows):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING, str(path), name, str(rows)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout.readline() == "open\n"
    return process


def begin(process):
    process.stdin.write("\n")
    process.stdin.flush()


def test_rows_are_read_back_as_they_were(tmp_path):
    rows = [
        row("a"),
        row("b", prediction_error="unknown", predicted_peak_bytes=None, ttft_s=None, arrived_unix_s=time.time() / 3),
        row("ö \N{SNOWMAN}", model="[bold]", kv_policy="4,0-1:16", peak_bytes=2**62),
    ]  # fmt: skip
    with Ledger.open(tmp_path / "deep" / "ledger.sqlite3", max_age_s=None) as ledger:
        assert all(ledger.record(each) for each in rows)
        ledger.flush()
        assert without_ids(ledger.rows()) == without_ids(rows)
        assert [each.request_id for page in ledger.all_rows(model="notes") for each in page] == ["a", "b"]
        assert [each.request_id for each in ledger.rows(limit=1)] == ["ö \N{SNOWMAN}"]
        today = datetime.fromtimestamp(time.time() - 60, UTC)
        assert [each.request_id for each in ledger.rows(since=today, model="notes")] == ["a"]
        assert ledger.rows(limit=0) == []
        stats = ledger.stats()
        assert (stats.state, stats.written_rows, stats.dropped_rows, stats.queued_rows) == ("running", 3, {}, 0)
    assert ledger.state == "closed"
    assert len(ledger.rows()) == 3
    with pytest.raises(LedgerClosedError):
        ledger.record(rows[0])
    assert "3 rows" in str(ledger.stats())


def test_all_rows_go_page_by_page(tmp_path, monkeypatch):
    monkeypatch.setattr("hwledger_omlx.memory.ledger._PAGE_ROWS", 7)
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        for number in range(21):
            ledger.record(row(str(number)))
        ledger.flush()
        pages = list(ledger.all_rows())
        assert [len(page) for page in pages] == [7, 7, 7]
        assert [each.request_id for page in pages for each in page] == [str(number) for number in range(21)]


def test_what_cannot_be_a_row_is_an_error_of_the_caller(tmp_path):
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        for wrong in (row(""), row("a", total_s=float("nan")), row("a", prompt_tokens=-1), row("a", peak_bytes=2**63),
                      row("a", peak_bytes=1.5), row("a", model=None)):  # fmt: skip
            with pytest.raises(LedgerError, match="this is no row of a ledger"):
                ledger.record(wrong)
        assert ledger.stats().dropped_rows == {}


def test_the_default_place_is_beside_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HWLEDGER_OMLX_HOME", str(tmp_path / "home"))
    with pytest.raises(LedgerNotFoundError, match="no ledger at"):
        Ledger.open(create=False)
    assert not (tmp_path / "home").exists()
    Ledger.open().close()
    assert default_path() == tmp_path / "home" / "ledger.sqlite3"
    assert default_path().is_file()


@pytest.mark.parametrize("settings", [{"max_rows": 0}, {"max_rows": -1}, {"queue_rows": 0}, {"max_age_s": -1.0},
                                      {"patience_s": float("inf")}, {"max_rows": "many"}])  # fmt: skip
def test_settings_that_cannot_be(tmp_path, settings):
    with pytest.raises(LedgerError):
        Ledger.open(tmp_path / "ledger.sqlite3", **settings)


def test_files_that_are_no_ledger_are_left_alone(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    path.write_text("somebody's notes, long enough to be looked at as if it were a database\n" * 20)
    before = path.read_bytes()
    with pytest.raises(LedgerFormatError, match="move it away"):
        Ledger.open(path)
    assert path.read_bytes() == before
    with pytest.raises(LedgerError, match=r"ledger\.sqlite3"):
        Ledger.open(path / "below")


def test_a_database_of_a_later_version_is_refused(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    Ledger.open(path).close()
    later = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA user_version = 99'); c.close()"
    subprocess.run([sys.executable, "-c", later, str(path)], check=True, timeout=60)
    with pytest.raises(LedgerFormatError, match=r"schema 99.*update hwledger-omlx"):
        Ledger.open(path)


@pytest.mark.parametrize("there", [False, True])
def test_a_read_only_folder_is_said(there):
    # Of a process of its own: root writes everywhere, unless it gives its file rights up, which lasts.
    script = """
import ctypes, os, sys
from hwledger_omlx.errors import LedgerError
from hwledger_omlx.memory import Ledger
if os.geteuid() == 0:
    ctypes.CDLL(None).setfsuid(65534)
try:
    Ledger.open(sys.argv[1]).close()
except LedgerError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "ledger.sqlite3"
        if there:
            Ledger.open(path).close()
            path.chmod(0o444)
        folder.chmod(0o555)
        command = [sys.executable, "-c", script, str(path)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.stderr == ""
        assert ended.stdout.startswith(f"the ledger {path} cannot be read or written: ")
        assert list(folder.iterdir()) == ([path] if there else [])
        folder.chmod(0o700)


def test_two_processes_write_at_once(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    processes = [writing(path, name, 200) for name in ("one", "other")]
    for process in processes:
        begin(process)
    for process in processes:
        lines = process.communicate(timeout=120)[0].split()
        assert (process.returncode, lines[-1]) == (0, "200")
    with Ledger.open(path, create=False) as ledger:
        assert {each.request_id for each in ledger.rows()} == {
            f"{name} {number}" for name in ("one", "other") for number in range(200)
        }


def test_a_killed_process_loses_nothing_that_was_committed(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    process = writing(path, "killed", 100_000)
    begin(process)
    for _ in range(20):
        committed = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    with Ledger.open(path, create=False) as ledger:
        found = [each.request_id for page in ledger.all_rows() for each in page]
        assert found[:committed] == [f"killed {number}" for number in range(committed)]
        assert found == [f"killed {number}" for number in range(len(found))]
        ledger.record(row("after"))
        ledger.flush()
        assert ledger.rows(limit=1)[0].request_id == "after"


def test_what_is_left_open_is_written_at_the_end_of_python(tmp_path):
    script = """
import sys
from hwledger_omlx.memory import Ledger
from ledgers import row
ledger = Ledger.open(sys.argv[1])
for number in range(100):
    ledger.record(row(str(number)))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    path = tmp_path / "ledger.sqlite3"
    subprocess.run([sys.executable, "-c", script, str(path)], env=environment, check=True, timeout=120)
    with Ledger.open(path) as ledger:
        assert len(ledger.rows()) == 100


def test_what_is_dropped_without_closing_is_written(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    ledger = Ledger.open(path)
    ledger.record(row("a"))
    del ledger
    gc.collect()
    with Ledger.open(path) as ledger:
        assert [each.request_id for each in ledger.rows()] == ["a"]


def test_a_forked_child_cannot_use_it_and_ends_well(tmp_path):
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")
from hwledger_omlx.errors import LedgerError
from hwledger_omlx.memory import Ledger
from ledgers import row
ledger = Ledger.open(sys.argv[1])
child = os.fork()
if child == 0:
    try:
        ledger.record(row("child"))
    except LedgerError as error:
        assert "parent" in str(error)
        sys.exit(7)
    sys.exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
ledger.record(row("parent"))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    path = tmp_path / "ledger.sqlite3"
    subprocess.run([sys.executable, "-c", script, str(path)], env=environment, check=True, timeout=120)
    with Ledger.open(path) as ledger:
        assert [each.request_id for each in ledger.rows()] == ["parent"]


def test_off_says_so():
    ledger = Ledger.off("the disk is on fire")
    assert ledger.state == "off: the disk is on fire"
    assert Ledger.off().state == "off"
    ledger.listen(lambda _: None)
    ledger.flush()
    ledger.close()
    with pytest.raises(LedgerError, match="the disk is on fire"):
        ledger.rows()
    assert dataclasses.asdict(ledger.stats())["written_rows"] == 0
