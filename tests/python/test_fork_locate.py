import sys
from pathlib import Path

import pytest

from forks import write_fork
from hwledger_omlx.errors import Error, ForkError, ForkNotFoundError
from hwledger_omlx.fork.locate import locate


@pytest.fixture(autouse=True)
def _no_fork_named(monkeypatch):
    monkeypatch.delenv("HWLEDGER_OMLX_FORK", raising=False)


def test_a_checkout_a_src_layout_and_the_package_folder_are_all_found(tmp_path):
    flat, nested = write_fork(tmp_path / "flat"), write_fork(tmp_path / "nested" / "src")
    for given, path in [(flat, flat), (tmp_path / "nested", nested), (nested / "omlx", nested)]:
        fork = locate(given)
        assert (fork.path, fork.package, fork.source) == (path, path / "omlx", "argument")
        assert (fork.distribution, fork.version) == (None, "0.7.0")
    assert str(locate(flat)) == f"checkout 0.7.0 at {flat / 'omlx'} (argument)"


def test_the_argument_goes_before_the_environment_and_that_before_the_installed(tmp_path, monkeypatch):
    one, two = write_fork(tmp_path / "one", version="0.5.0"), write_fork(tmp_path / "two", version="0.6.0")
    installed = locate()
    assert (installed.source, installed.distribution) == ("installed", "flyto-mlx")
    assert str(installed).startswith(f"flyto-mlx {installed.version} at ")
    monkeypatch.setenv("HWLEDGER_OMLX_FORK", str(one))
    assert (locate().version, locate().source) == ("0.5.0", "environment")
    assert locate(two).version == "0.6.0"


def test_locating_imports_nothing_of_it(tmp_path):
    write_fork(tmp_path, init="raise SystemExit('imported')")
    assert locate(tmp_path).version == "0.7.0"
    assert str(tmp_path) not in sys.path


def test_the_version_is_found_wherever_it_stands(tmp_path):
    in_init = write_fork(tmp_path / "init", version=None, init='__version__: str = "0.4.1"\n')
    assert locate(in_init).version == "0.4.1"
    in_metadata = write_fork(tmp_path / "metadata", version=None)
    info = in_metadata / "some_mlx-0.9.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-mlx\nVersion: 0.9.2\n")
    (info / "RECORD").write_text("omlx/__init__.py,,\n")
    # Ours, installed beside it, has a package whose name ends like the fork's.
    ours = info.with_name("hwledger_omlx-0.1.0.dist-info")
    ours.mkdir()
    (ours / "METADATA").write_text("Metadata-Version: 2.1\nName: hwledger-omlx\nVersion: 0.1.0\n")
    (ours / "RECORD").write_text("hwledger_omlx/__init__.py,,\n")
    assert (locate(in_metadata).version, locate(in_metadata).distribution) == ("0.9.2", "some-mlx")
    in_project = write_fork(tmp_path / "project" / "src", version=None).parent
    (in_project / "pyproject.toml").write_text('[project]\nname = "omlx"\nversion = "0.8.0"\n')
    assert locate(in_project).version == "0.8.0"


def test_an_unknown_version_is_no_error(tmp_path):
    fork = locate(write_fork(tmp_path, version=None))
    assert (fork.version, fork.release) == ("unknown", None)
    assert locate(write_fork(tmp_path / "odd", version="nightly")).release is None


def test_one_that_is_too_old_is_refused(tmp_path):
    assert locate(write_fork(tmp_path / "oldest", version="0.3.6")).version == "0.3.6"
    with pytest.raises(ForkError, match=r"0\.3\.5 .* is too old: 0\.3\.6 is the oldest that works; `pip install"):
        locate(write_fork(tmp_path / "old", version="0.3.5"))


@pytest.mark.parametrize("make", ["nothing", "empty", "file"])
def test_what_is_not_there_is_said_with_a_way_out(tmp_path, make):
    path = tmp_path / "fork"
    if make == "empty":
        path.mkdir()
    elif make == "file":
        path.touch()
    with pytest.raises(ForkNotFoundError, match="pip install flyto-mlx") as caught:
        locate(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, Error | ModuleNotFoundError)


def test_the_environment_is_named_where_it_is_to_blame(monkeypatch):
    monkeypatch.setenv("HWLEDGER_OMLX_FORK", "/no/such/fork")
    with pytest.raises(ForkNotFoundError, match="HWLEDGER_OMLX_FORK=/no/such/fork: no such folder"):
        locate()


def test_a_folder_that_is_no_package_is_refused(tmp_path):
    (tmp_path / "omlx").mkdir()
    with pytest.raises(ForkError, match=r"no __init__\.py"):
        locate(tmp_path)


def test_nothing_installed_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ForkNotFoundError, match=r"no package omlx is installed .*pip install flyto-mlx"):
        locate()


def test_a_version_file_that_is_no_python_is_an_error(tmp_path):
    write_fork(tmp_path)
    Path(tmp_path, "omlx", "_version.py").write_text("version is (")
    with pytest.raises(ForkError, match=r"_version\.py"):
        locate(tmp_path)
