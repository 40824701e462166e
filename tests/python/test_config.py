"""`hwledger.toml`, variables and flags: where the file is found, what comes of it, and `hwledger-omlx config show`."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner, Result

import hwledger_omlx as hw
from hwledger_omlx.cli import app
from hwledger_omlx.cli.serve import REFUSED, given
from hwledger_omlx.config import find, load
from hwledger_omlx.config.process import put_environment
from hwledger_omlx.engine import kv_policy
from hwledger_omlx.fork.home import home
from hwledger_omlx.models import NOTES

REPOSITORY = Path(__file__).parents[2]
EVERYTHING = """
[server]
port = 9001
api_key = "secret"
models = ["org/model", "./near"]
shutdown_seconds = 5
sse_keepalive_mode = "comment"
[engine]
kv = { live = "k8v4", recent_tokens = 128 }
ledger = false
max_concurrent_requests = 3
[cache]
dir = "kv"
quota_bytes = "2GiB"
ttl_seconds = 60
[sampling]
temperature = 0.5
[log]
level = "debug"
[network]
https_proxy = "http://me:word@proxy:80"
[models."Qwen3-0.6B"]
kv = "8"
temperature = 0.25
thinking_budget_tokens = 100
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hwledger.toml"
    path.write_text(EVERYTHING, encoding="utf-8")
    return path


def show(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["config", "show", *map(str, arguments)], env={"COLUMNS": "200"})


def test_what_the_file_says_reaches_the_engine_and_the_server(file: Path) -> None:
    server = load(file, {}, {"--port": 0, "--kv": "4"}).server()
    engine = server.engine
    assert (server.host, server.port, server.api_key, server.shutdown_s) == ("127.0.0.1", 0, "secret", 5.0)
    assert server.models == ["org/model", file.parent / "near"]
    assert (str(engine.kv), str(engine.kv_policies["Qwen3-0.6B"])) == ("4", "8")
    assert (engine.ledger, engine.max_concurrent_requests, engine.cache_dir) == (False, 3, file.parent / "kv")
    cache = engine.paged_cache
    assert cache is not None
    assert (cache.quota_bytes, cache.ttl_seconds, cache.hot_bytes) == (2 << 30, 60.0, hw.PagedCache().hot_bytes)
    assert server.fork.sampling == {"temperature": 0.5}
    assert server.fork.models == {"Qwen3-0.6B": {"temperature": 0.25, "thinking_budget_tokens": 100}}
    assert server.fork.origins['models."Qwen3-0.6B".temperature'] == "hwledger.toml:24"
    assert str(load(file, {}).engine().kv) == "k8v4,recent=128"


def test_without_a_file_it_is_the_shipped_model_with_the_defaults(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    server = load(None, {}).server()
    assert server.models == [NOTES]
    assert server.engine == hw.EngineConfig(model=None)
    assert load(None, {}, {"--model-dir": f"{tmp_path}, /tmp"}).server().models == []
    assert load(None, {}, given({"--no-cache": True})).engine().cache is None


def test_the_file_is_the_named_one_or_the_nearest(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    assert find(None, {}) is None
    theirs = tmp_path / "settings" / "hwledger-omlx" / "hwledger.toml"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    assert find(None, {}) == theirs
    Path("hwledger.toml").touch()
    assert find(None, {}) == Path("hwledger.toml")
    assert find(None, {"HWLEDGER_OMLX_CONFIG": "named.toml"}) == Path("named.toml")
    assert find(Path("flag.toml"), {"HWLEDGER_OMLX_CONFIG": "named.toml"}) == Path("flag.toml")
    # One that is named and is not there is a mistake, no reason to take another one.
    with pytest.raises(hw.ConfigError, match=r"named\.toml cannot be read: No such file"):
        load(None, {"HWLEDGER_OMLX_CONFIG": "named.toml"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[server]\nprot = 1", "hwledger.toml:2: server.prot: no such setting; did you mean port?"),
        (b"[server]\nport = '1'", 'hwledger.toml:2: server.port: must be a whole number from 0 to 65535, not "1"'),
        (b"[cache]\nquota_bytes = '20GX'", "hwledger.toml:2: cache.quota_bytes: must be a number of bytes"),
        (b"[cache]\nquota_bytes = 0", "quota_bytes must be at least 1"),
        (b"# \xff\n", "hwledger.toml:1: not UTF-8"),
        (b"[engine]\nkv = 'no/such.toml'", "hwledger.toml:2: engine.kv: the KV policy "),
        (b"[cache]\nkind = 'fork'\n[models.a]\nkv = '8'", "kv='8' needs cache='paged' or None"),
    ],
)
def test_what_cannot_be_is_one_line_that_says_where(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "hwledger.toml"
    path.write_bytes(text)
    with pytest.raises(hw.ConfigError) as raised:
        load(path, {}).engine()
    assert said in str(raised.value)
    assert isinstance(raised.value, ValueError)
    with pytest.raises(hw.ConfigError):
        app(["config", "show", "--config", str(path)], standalone_mode=False)


def test_a_file_without_permission_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(hw.ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, {})


@pytest.mark.parametrize("name", ["policy.toml", "policy.JSON"])
def test_a_policy_may_be_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    toml = 'recent_tokens = 128\n[live]\nk = "8"\nv = "4"\n'
    path.write_text(toml if name.endswith("toml") else json.dumps(tomllib.loads(toml)), encoding="utf-8")
    assert str(kv_policy.parse(path)) == "k8v4,recent=128"
    assert str(hw.EngineConfig(model=None, kv=path).kv) == "k8v4,recent=128"
    assert kv_policy.named(str(path)) == path
    assert kv_policy.named("k8v4") == "k8v4"
    file = tmp_path / "hwledger.toml"
    file.write_text(f'[models.notes]\nkv = "{name}"\n', encoding="utf-8")
    assert str(load(file, {}).engine().kv_policies["notes"]) == "k8v4,recent=128"
    path.write_text("live = ", encoding="utf-8")
    with pytest.raises(hw.KvPolicyError, match=name):
        kv_policy.parse(path)


def test_show_takes_and_refuses_what_serve_does(tmp_path: Path) -> None:
    said = show("--restart-stuck", "--port", 9000, "--json", "--changed")
    settings = {each["name"]: (each["value"], each["origin"]) for each in json.loads(said.stdout)["settings"]}
    assert settings["server.port"] == (9000, "--port")
    assert settings["server.restart_stuck"] == (True, "--restart-stuck")
    for arguments, why in (
        (("-m", "x"), "-m is a flag of no setting"),
        (("--model-dir", tmp_path / "no"), "no folder"),
    ):
        assert why in str(show(*arguments).exception)


def test_show_has_every_value_with_its_origin_and_no_secret(file: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HWLEDGER_OMLX_TEMPERATURE", "0.75")
    told = json.loads(show("--config", file, "--json", "--port", "9000", "--hot-cache-max-size=1GB").stdout)
    settings = {each["name"]: (each["value"], each["origin"]) for each in told["settings"]}
    assert told["file"] == str(file)
    assert settings["server.host"] == ("127.0.0.1", "default")
    assert settings["server.port"] == (9000, "--port")
    assert settings["sampling.temperature"] == (0.75, "HWLEDGER_OMLX_TEMPERATURE")
    assert settings["cache.hot_bytes"] == (1 << 30, "--hot-cache-max-size")
    assert settings["engine.kv"] == ("k8v4,recent=128", "hwledger.toml:9")
    assert settings['models."Qwen3-0.6B".temperature'] == (0.25, "hwledger.toml:24")
    assert settings["server.api_key"] == ("***", "hwledger.toml:4")
    assert settings["network.https_proxy"] == ("http://***@proxy:80", "hwledger.toml:21")
    table = show("--config", file, "--changed").stdout
    assert "hwledger.toml:4" in table
    assert "2.0 GiB" in table
    assert "secret" not in table
    assert "server.host" not in table


def test_the_flags_of_omlx_are_all_here() -> None:
    """As in the installed fork's own parser; each is taken, or refused with a reason."""
    cli = Path(__import__("omlx").__path__[0]) / "cli.py"
    serve = cli.read_text(encoding="utf-8").partition('"serve",')[2].partition('add_parser(\n        "launch"')[0]
    theirs = {line.strip().strip('",') for line in serve.splitlines() if line.strip().startswith('"--')}
    assert {"--model-dir", "--no-proxy", "--paged-ssd-cache-max-size"} < theirs
    said = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).stdout
    for flag in theirs:
        assert flag in said or flag in REFUSED, flag
    with pytest.raises(hw.ConfigError, match="--max-model-memory is not taken: omlx ignores it"):
        given({"--max-model-memory": "1GB"})


def test_sizes_of_omlx_flags_count_as_there() -> None:
    flags = given({"--paged-ssd-cache-max-size": "100GB", "--hot-cache-max-size": "8 gb"})
    cache = load(None, {}, flags).engine().paged_cache
    assert cache is not None
    assert (cache.quota_bytes, cache.hot_bytes) == (100 << 30, 8 << 30)


def test_what_others_read_is_put_into_the_environment(tmp_path: Path) -> None:
    flags = given(
        {"--hf-endpoint": "https://mirror", "--ms-endpoint": "https://ms.example/", "--base-path": str(tmp_path)}
    )
    environment = {"HTTP_PROXY": "kept"}
    put_environment(load(None, {}, flags), environment)
    assert environment == {
        "HTTP_PROXY": "kept",
        "HF_ENDPOINT": "https://mirror",
        "MODELSCOPE_DOMAIN": "ms.example",
        "HWLEDGER_OMLX_HOME": str(tmp_path),
    }
    assert load(None).value("engine.home") == str(home())


def test_the_example_and_what_is_told_follow_the_schema(file: Path) -> None:
    schema = (REPOSITORY / "schema" / "hwledger.toml.v1.json").read_text(encoding="utf-8")
    check = jsonschema.Draft202012Validator(json.loads(schema))
    check.validate(tomllib.loads((REPOSITORY / "hwledger.example.toml").read_text(encoding="utf-8")))
    check.validate(tomllib.loads(EVERYTHING))
    for wrong in ({"server": {"prot": 1}}, {"server": {"port": -1}}, {"cache": {"quota_bytes": "20GX"}}):
        assert not check.is_valid(wrong), wrong
