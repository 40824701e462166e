"""`hwledger-omlx ledger`, and what it exports, read back."""

import csv
import json
import os
import subprocess
import sys
import time

import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from hwledger_omlx.cli.ledger import ledger_app
from hwledger_omlx.errors import LedgerError, LedgerNotFoundError
from hwledger_omlx.memory import Ledger, LedgerRow, fitted_runtime
from hwledger_omlx.memory.ledger import default_path
from hwledger_omlx.memory.ledger_row import COLUMNS
from ledgers import MB, row

ROWS = [
    *(row(f"request {number}", arrived_unix_s=time.time() - 7200 + number) for number in range(30)),
    row("quoted", model='qwen "8b"\n[bold]', prediction_error="unknown, of layer 3", predicted_peak_bytes=None,
        predicted_kv_bytes=None, ttft_s=None, finish_reason="cancelled", arrived_unix_s=time.time() / 3 + 1.1e9),
    row("large", peak_bytes=2**62 + 1, total_s=1 / 3, kv_policy="4,0-1:16"),
]  # fmt: skip


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    place = tmp_path / "ledger.sqlite3"
    with Ledger.open(place, max_age_s=None) as ledger:
        for each in ROWS:
            assert ledger.record(each)
    return place


def run(*arguments):
    return CliRunner().invoke(ledger_app, [str(each) for each in arguments])


def output(*arguments):
    ended = run(*arguments)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def recorded(path):
    with Ledger.open(path, create=False) as ledger:
        return ledger.rows()


def test_show_tells_of_the_latest(path):
    text = output("show", path)
    assert len([line for line in text.splitlines() if "notes" in line]) == 19
    assert "cancelled" in text
    assert "not predicted: unknown, of layer 3" in text
    assert "-8.3%" in text, "the peak was predicted 1 MB of 12 too low"
    lines = [json.loads(line) for line in output("show", path, "--json", "-n", "3").splitlines()]
    assert [line["request_id"] for line in lines] == ["request 29", "quoted", "large"]
    assert LedgerRow.of(lines[-1]) == recorded(path)[-1]


def test_a_narrow_terminal_cuts_no_number(path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = output("show", path, "--model", "notes")
    assert "…" not in text
    assert text.count("-8.3%") == 19
    assert text.count("notes") == 20
    assert "batch" not in text


def test_rows_are_chosen_by_model_and_age(path):
    def shown(*arguments):
        return [json.loads(line)["request_id"] for line in output("show", path, "--json", *arguments).splitlines()]

    assert shown("--model", 'qwen "8b"\n[bold]') == ["quoted"]
    assert shown("--since", "90m", "--model", "notes") == ["large"]
    assert len(shown("--since", "3h", "-n", "100", "-m", "notes")) == 31
    assert shown("--since", "2100-01-01") == []
    assert "no such requests" in output("show", path, "--model", "none")
    assert run("show", path, "--since", "yesterday").exit_code == 2


def test_exports_read_back_equal(path, tmp_path):
    rows = recorded(path)
    files = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "parquet", "json")}
    ended = run("export", path, *(part for kind, file in files.items() for part in (f"--{kind}", file)))
    assert ended.exit_code == 0, ended.output
    assert ended.stderr.count("32 requests in ") == 3

    table = parquet.read_table(files["parquet"])
    assert tuple(table.column_names) == COLUMNS
    assert [LedgerRow.of(each) for each in table.to_pylist()] == rows
    assert {str(table.schema.field(name).type) for name in ("id", "peak_bytes", "batch_peak")} == {"int64"}
    assert str(table.schema.field("arrived_unix_s").type) == "double"

    lines = files["json"].read_text(encoding="utf-8").splitlines()
    assert [LedgerRow.of(json.loads(line)) for line in lines] == rows

    with files["csv"].open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == COLUMNS
    told = [{name: "" if value is None else str(value) for name, value in each.as_json().items()} for each in rows]
    assert read == told
    assert float(read[-1]["total_s"]) == 1 / 3

    assert sorted(each.name for each in tmp_path.iterdir()) == ["ledger.sqlite3", *sorted(f"out.{k}" for k in files)]


def test_a_part_is_exported(path, tmp_path):
    run("export", path, "--json", tmp_path / "out", "--model", "notes", "--since", "90m")
    assert json.loads((tmp_path / "out").read_text())["request_id"] == "large"


def test_an_export_that_fails_leaves_what_was_there(path, tmp_path, monkeypatch):
    file = tmp_path / "out.csv"
    file.write_text("before")

    def failing(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hwledger_omlx.memory.ledger_row.LedgerRow.as_json", failing)
    with pytest.raises(LedgerError, match="No space left"):
        raise run("export", path, "--csv", file).exception
    assert file.read_text() == "before"
    assert {each.name for each in tmp_path.iterdir()} == {"ledger.sqlite3", "out.csv"}
    with pytest.raises(LedgerError, match="cannot be written"):
        raise run("export", path, "--parquet", tmp_path / "none" / "out").exception
    with pytest.raises(LedgerError, match="cannot be written"):
        raise run("export", path, "--json", tmp_path).exception
    assert run("export", path).exit_code == 2


def test_an_export_goes_into_a_pipe(path):
    command = [sys.executable, "-m", "hwledger_omlx.cli", "ledger", "export", str(path), "--json", "/dev/stdout"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert len(ended.stdout.splitlines()) == len(ROWS)


def test_reconcile_tells_errors_and_fits_the_runtime(path):
    text = output("reconcile", path)
    assert "notes on cpu: runtime 977 KiB, fitted to 31 requests" in text
    assert 'qwen "8b"' in text
    assert "1 of 1 requests were cancelled or failed and not compared" in text
    found = {each["model"]: each for each in json.loads(output("reconcile", path, "--json"))}
    notes, other = found["notes"], found['qwen "8b"\n[bold]']
    terms = {term["term"]: term for term in notes["terms"]}
    assert terms["kv"]["worst"] == 0.0
    assert terms["peak"]["bias"] == pytest.approx(-1 / 12)
    assert terms["peak"]["bias_bytes"] == -MB
    assert (notes["requests"], notes["runtime"]["bytes"], notes["runtime"]["samples"]) == (31, MB, 31)
    assert (other["unanswered"], other["terms"], other["runtime"]) == (1, [], None)


def test_the_fitted_runtime_is_for_the_planner(path):
    assert fitted_runtime("notes", device="cpu", path=path) is None
    output("reconcile", path)
    runtime = fitted_runtime("notes", device="cpu", path=path)
    assert (runtime.bytes, runtime.samples) == (MB, 31)
    assert "to requests of notes on this machine's cpu" in runtime.source
    assert fitted_runtime("notes", device="gpu (H200)", path=path) is None
    assert fitted_runtime("notes", path=path.parent / "none") is None
    with Ledger.open(path) as ledger:
        assert ledger.fitted_runtime("notes", "cpu") == runtime


def test_a_drift_is_flagged(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        for number in range(80):
            peak = (11 if number < 60 else 13) * MB + number % 7 * 1000
            ledger.record(row(str(number), peak_bytes=peak))
        ledger.flush()
        (model,) = ledger.reconcile()
        drifts = {error.term: error.drift.drifts for error in model.terms}
        assert drifts == {"weights": False, "kv": False, "peak": True}
        assert ledger.reconcile(since=time.time() + 60) == []
    text = output("reconcile", tmp_path / "ledger.sqlite3")
    assert "-0.0% → -15.4%" in text
    assert text.count("none") == 2


def test_the_default_ledger_is_looked_at(path, monkeypatch):
    monkeypatch.setenv("HWLEDGER_OMLX_HOME", str(path.parent / "home"))
    for command in ("show", "reconcile"):
        with pytest.raises(LedgerNotFoundError, match="no request has been recorded there"):
            raise run(command).exception
    default_path().parent.mkdir()
    path.rename(default_path())
    assert "quoted" in output("show", "--json")


def test_an_error_of_the_command_is_one_line(tmp_path):
    (tmp_path / "ledger.sqlite3").write_text("no database " * 100)
    ended = subprocess.run(
        [sys.executable, "-m", "hwledger_omlx.cli", "ledger", "show", str(tmp_path / "ledger.sqlite3")],
        env=os.environ, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("hwledger-omlx: the ledger ")
    assert ended.stderr.count("\n") == 1
