import json

import pytest
from typer.testing import CliRunner

from forks import ENGINE, STEP, write_fork, write_series, write_shims
from hwledger_omlx.cli.patches import patches_app
from hwledger_omlx.errors import ForkError, ForkNotFoundError
from hwledger_omlx.fork.series import Series


@pytest.fixture
def patches(tmp_path, monkeypatch):
    """Runs `patches ...` over a series of one hook that was proven on `ENGINE`, with output as wide as it needs."""
    for name, value in write_shims(tmp_path / "shims").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HWLEDGER_OMLX_HOME", str(tmp_path / "ours"))
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.delenv("HWLEDGER_OMLX_FORK", raising=False)
    from hwledger_omlx.fork.digest import Sources

    digest = Sources(write_fork(tmp_path / "known") / "omlx").target(STEP["target"]).digest
    series = Series.of_folder(write_series(tmp_path / "patches", {**STEP, "digests": {"0.7.0": digest}}))
    monkeypatch.setattr(Series, "shipped", classmethod(lambda cls: series))

    def run(*arguments):
        return CliRunner().invoke(patches_app, [str(each) for each in arguments])

    return run


CHANGED = ENGINE.replace(" x{count}", " times {count}")


@pytest.mark.parametrize(
    ("engine", "status", "code"),
    [(ENGINE, "applied", 0), (CHANGED, "drifted", 0), (ENGINE.replace("def step", "def advance"), "refused", 1)],
)
def test_verify_says_what_becomes_of_each_hook(patches, tmp_path, engine, status, code):
    fork = write_fork(tmp_path / "fork", {"engine": engine})
    result = patches("verify", "--fork", fork, "--json")
    assert result.exit_code == code
    said = json.loads(result.stdout)
    (hook,) = said["hooks"]
    assert (hook["id"], hook["status"], hook["patch"]) == ("probe.step", status, "050-probe")
    assert hook["target"] == STEP["target"]
    assert hook["reason"]
    assert said["fork"]["version"] == "0.7.0"
    assert said["fork"]["source"] == "argument"
    assert said["fork"]["distribution"] is None
    text = patches("verify", "--fork", fork)
    assert text.exit_code == code
    assert (status.upper() if status == "refused" else status) in text.stdout
    assert hook["reason"] in text.stdout
    assert f"fork: checkout 0.7.0 at {fork / 'omlx'}" in text.stdout


def test_list_runs_no_self_test_and_has_titles(patches, tmp_path):
    fork = write_fork(tmp_path / "fork", {"engine": CHANGED})
    (hook,) = json.loads(patches("list", "--fork", fork, "--json").stdout)["hooks"]
    assert (hook["status"], hook["title"]) == ("drifted", "Probe")
    assert hook["reason"].endswith("self-test not run")
    assert "probe.step" in patches("list", "--fork", fork).stdout


def test_list_needs_no_fork_but_a_fork_that_was_named(patches, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = json.loads(patches("list", "--json").stdout)
    assert (said["fork"], said["hooks"][0]["status"]) == (None, "unknown")
    assert "pip install flyto-mlx" in said["hooks"][0]["reason"]
    assert isinstance(patches("list", "--fork", tmp_path / "none").exception, ForkNotFoundError)
    assert isinstance(patches("verify").exception, ForkNotFoundError)


def test_lock_makes_a_drifted_hook_applied(patches, tmp_path):
    fork = write_fork(tmp_path / "fork", {"engine": CHANGED}, version="0.8.0")
    result = patches("lock", "--fork", fork, "--json")
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert (said["hooks"][0]["status"], said["files"]) == ("applied", [str(tmp_path / "ours" / "patches.lock.json")])
    checked = json.loads(patches("verify", "--fork", fork, "--json").stdout)["hooks"][0]
    assert (checked["status"], checked["reason"]) == ("applied", "source as proven on 0.8.0")


def test_lock_into_a_series_names_the_files(patches, tmp_path):
    fork = write_fork(tmp_path / "fork", {"engine": CHANGED}, version="0.8.0")
    result = patches("lock", "--fork", fork, "--series", tmp_path / "patches")
    assert result.exit_code == 0
    assert f"files: {tmp_path / 'patches' / '050-probe.toml'}" in result.stdout
    assert '"0.8.0" = ' in (tmp_path / "patches" / "050-probe.toml").read_text()


def test_lock_that_fails_is_an_error_of_ours(patches, tmp_path):
    fork = write_fork(tmp_path / "fork", {"engine": ENGINE.replace("def step", "def advance")})
    assert isinstance(patches("lock", "--fork", fork).exception, ForkError)
