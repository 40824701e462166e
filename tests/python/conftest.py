"""What the tests share: a home of their own, and a tiny model."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import hwledger_omlx as hw
import rpc_client
import serving
from hwledger_omlx.fork.locate import Fork, locate

os.environ["HF_HUB_OFFLINE"] = "1"
RELEASES = os.environ.get("HWLEDGER_OMLX_TEST_FORKS")


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing that a test starts may reach the user's folders."""
    home = tmp_path_factory.mktemp("home")
    patch = pytest.MonkeyPatch()
    patch.setenv("HOME", str(home))
    patch.setenv("HWLEDGER_OMLX_HOME", str(home / "hwledger-omlx"))
    patch.delenv("HWLEDGER_OMLX_LOG", raising=False)
    yield home
    patch.undo()
    touched = {entry.name for entry in home.iterdir()} & {".omlx", ".fmlx"}
    assert not touched, f"something wrote to {touched} in the user's home"


@pytest.fixture(scope="module", autouse=True)
def settings_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What one module's tests set on the admin page, a key among it, is nothing to the next one's servers."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HWLEDGER_OMLX_HOME", str(tmp_path_factory.mktemp("home") / "hwledger-omlx"))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Qwen3 model with a chat template."""
    from hwledger_omlx.fork import probe_model

    return probe_model.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> Iterator[hw.Engine]:
    """An engine without a cache."""
    with hw.Engine(tiny_model, cache=None) as engine:
        yield engine


@pytest.fixture
def engine(tiny_model: Path, tmp_path: Path) -> Iterator[hw.Engine]:
    """An engine with a cache of its own."""
    with hw.Engine(tiny_model, cache_dir=tmp_path / "kv") as opened:
        yield opened


@pytest.fixture(params=["0.5.0", "0.6.0", "installed"])
def release(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fork:
    """A release of the fork: the earlier ones, which `poe test` unpacks, and the one installed."""
    monkeypatch.delenv("HWLEDGER_OMLX_FORK", raising=False)
    if request.param == "installed":
        return locate()
    if RELEASES is None:
        pytest.skip("HWLEDGER_OMLX_TEST_FORKS names no folder with the releases 0.5.0 and 0.6.0; `poe test` fills one")
    found = locate(Path(RELEASES, request.param))
    assert found.version == request.param
    assert found.distribution == "flyto-mlx"
    return found


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Served]:
    """`hwledger-omlx serve` as a process, for all tests that are its clients."""
    with serving.served(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="session")
def shared_rpc(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[rpc_client.Client]:
    """`hwledger-omlx rpc` as a process, with the tiny model."""
    folder = tmp_path_factory.mktemp("rpc")
    client = rpc_client.Client(tiny_model, "--cache-dir", folder / "kv", home=folder / "home")
    # Whatever the tests did to it, it ends well and has said nothing.
    try:
        yield client
        assert client.end() == (0, "")
    finally:
        client.kill()


@pytest.fixture
def client(shared_rpc: rpc_client.Client) -> rpc_client.Client:
    """A client of that process. A test leaves the model loaded, and its policy and limits as they were."""
    shared_rpc.answers.clear()
    shared_rpc.notifications.clear()
    return shared_rpc
