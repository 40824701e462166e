"""One variable sets the level of Python's and Rust's loggers."""

import subprocess
import sys

import pytest


def run(code: str, level: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"HWLEDGER_OMLX_LOG": level, "PATH": "", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


@pytest.mark.parametrize(
    ("given", "level"), [("debug", 10), ("INFO", 20), ("warn", 30), ("off", 100), ("", 0), ("loud", 30)]
)
def test_the_variable_sets_every_logger_of_ours(given: str, level: int) -> None:
    code = (
        "import logging, hwledger_omlx\n"
        "print(*{logging.getLogger(n).level for n in ('hwledger_omlx', 'hwledger_omlx_core', 'omlx')})"
    )
    ran = run(code, given)
    assert ran.stdout.strip() == str(level)
    assert ("loud is no level; known are" in ran.stderr) == (given == "loud")


def test_a_program_may_set_it_in_place_of_the_variable() -> None:
    code = (
        "import logging\n"
        "from hwledger_omlx import logs\n"
        "logs.configure(to_stderr=True, level='debug')\n"
        "print(*{logging.getLogger(n).level for n in ('hwledger_omlx', 'omlx', 'uvicorn')}, logging.getLogger().level)"
    )
    assert run(code, "error").stdout.split() == ["10", "30"]


def test_rust_follows_when_the_level_is_changed_later() -> None:
    code = (
        "import logging\n"
        "logging.basicConfig(format='%(levelname)s %(name)s %(message)s', level=logging.DEBUG)\n"
        "from hwledger_omlx import _native, logs\n"
        "for level in ('warning', 'debug', 'error'):\n"
        "    logs.configure(level=level)\n"
        "    print(level, flush=True)\n"
        "    _native.series()\n"
    )
    assert run(code, "").stderr.count("DEBUG hwledger_omlx_core.series read the patch series") == 1


@pytest.mark.parametrize(("given", "heard"), [("debug", True), ("info", False), ("", False)])
def test_rust_is_heard_in_pythons_logging(given: str, heard: bool) -> None:
    code = (
        "import logging\n"
        "logging.basicConfig(format='%(levelname)s %(name)s %(message)s', level=logging.DEBUG)\n"
        "from hwledger_omlx import _native\n"
        "_native.series()\n"
    )
    ran = run(code, given)
    assert ("DEBUG hwledger_omlx_core.series read the patch series" in ran.stderr) == heard
