"""`hwledger-omlx cache` on folders at rest: what it says of them, and what it leaves alone."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from hwledger_omlx._native import Layout, namespace_digest
from hwledger_omlx.cache.settings import default_folder
from hwledger_omlx.cli.cache import cache_app
from hwledger_omlx.errors import ForeignFolderError, StoreError, StoreInUseError, StoreNotFoundError
from stores import open_store, range_ids

SPACES = {"qwen [8b]": [namespace_digest({"m": "1"}), namespace_digest({"m": "1", "tenant": "x"})],
          "llama": [namespace_digest({"m": "2"})]}  # fmt: skip
TOKENS = 600


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A store with prompts of two models, one of them of two tenants, at rest."""
    monkeypatch.setenv("COLUMNS", "300")
    place = tmp_path / "kv"
    with open_store(place) as store:
        for label, spaces in SPACES.items():
            for space in spaces:
                arrays = [np.full((1, 2, TOKENS, 64), 7, np.uint8)]
                saved = store.save(space, Layout([(2, 64)]), range_ids(TOKENS), arrays, label=label)
                assert saved.refused is None
    return place


def run(*arguments, text=None):
    return CliRunner().invoke(cache_app, [str(each) for each in arguments], input=text)


def report(*arguments):
    ended = run(*arguments, "--json")
    assert ended.exit_code == 0, ended.output
    return json.loads(ended.stdout)


def test_info_tells_whose_prompts_are_there(folder):
    found = report("info", folder)
    assert (found["folder"], found["tokens"], found["blocks"]) == (str(folder), 3 * TOKENS, 9)
    assert found["disk_bytes"] >= found["live_bytes"] >= 3 * TOKENS * 128
    assert sorted((space["label"], space["tokens"]) for space in found["namespaces"]) == [
        ("llama", TOKENS), ("qwen [8b]", TOKENS), ("qwen [8b]", TOKENS)
    ]  # fmt: skip
    assert {space["key"] for space in found["namespaces"]} == {key.hex() for keys in SPACES.values() for key in keys}
    text = run("info", folder).stdout
    assert "1,800 tokens in 9 blocks" in text
    assert text.count("qwen [8b]") == 2
    assert SPACES["llama"][0].hex()[:12] in text


def test_the_default_folder_is_looked_at(folder, monkeypatch):
    monkeypatch.setenv("HWLEDGER_OMLX_HOME", str(folder.parent / "home"))
    with pytest.raises(StoreNotFoundError, match=re.escape(str(default_folder()))):
        raise run("info").exception
    default_folder().parent.mkdir(parents=True)
    folder.rename(default_folder())
    assert report("info")["tokens"] == 3 * TOKENS


def test_verify_finds_the_flipped_bit_and_takes_the_record_out(folder):
    whole = report("verify", folder)
    assert (whole["bad"], whole["stopped"]) == ([], False)
    assert whole["records"] == 9
    assert "9 records" in run("verify", folder).stdout
    segment = max((folder / "segments").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(segment.read_bytes())
    run_of_payload = content.find(b"\x07" * 64 * 256)
    content[run_of_payload + 1000] ^= 0x10
    segment.write_bytes(content)
    ended = run("verify", folder, "--json")
    assert ended.exit_code == 1
    assert len(json.loads(ended.stdout)["bad"]) == 1
    again = report("verify", folder)
    assert again["bad"] == []
    assert again["records"] < 9


def test_purge_asks_and_can_take_one_model_alone(folder):
    declined = run("purge", folder, text="n\n")
    assert declined.exit_code == 1
    assert f"Forget all prompts in {folder} (1,800 tokens, " in declined.output
    assert report("info", folder)["tokens"] == 3 * TOKENS
    assert report("purge", folder, "--model", "qwen [8b]", "--yes")["blocks"] == 6
    assert [space["label"] for space in report("info", folder)["namespaces"] if space["tokens"]] == ["llama"]
    with pytest.raises(StoreError, match="no prompts of a model 'mamba'"):
        raise run("purge", folder, "--model", "mamba", "--yes").exception
    assert report("purge", folder, "--model", SPACES["llama"][0].hex()[:12], "--yes")["blocks"] == 3
    assert report("info", folder)["tokens"] == 0


def test_purge_takes_all_and_compact_gives_the_space_back(folder):
    before = report("info", folder)["disk_bytes"]
    agreed = run("purge", folder, text="y\n")
    assert agreed.exit_code == 0
    assert "forgotten: 9 blocks" in agreed.output
    report("compact", folder)
    assert "segments rewritten" in run("compact", folder).stdout
    after = report("info", folder)
    assert after["tokens"] == 0
    assert after["disk_bytes"] < before


def test_a_folder_in_use_is_left_alone(folder):
    script = """
import sys
from hwledger_omlx._native import Store
store = Store.open(sys.argv[1], quota_bytes=1 << 30, hot_bytes=0, queue_bytes=1 << 20, min_free_bytes=0)
print("open", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "open\n"
        for name in ("info", "verify", "compact"):
            with pytest.raises(StoreInUseError, match=f"process {other.pid}"):
                raise run(name, folder).exception
        with pytest.raises(StoreInUseError):
            raise run("purge", folder, "--yes").exception
        other.stdin.close()
    assert report("info", folder)["tokens"] == 3 * TOKENS


@pytest.mark.parametrize("name", ["info", "verify", "purge", "compact"])
def test_what_is_no_store_is_said_and_not_touched(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    theirs = tmp_path / "omlx"
    for digit in "0123456789abcdef":
        (theirs / digit).mkdir(parents=True)
    (theirs / "a" / ("a" * 64 + ".safetensors")).write_bytes(b"theirs")
    before = sorted(theirs.rglob("*"))
    options = ("--yes",) if name == "purge" else ()
    for place, error in (("none", StoreNotFoundError), ("empty", StoreNotFoundError), ("file", StoreNotFoundError),
                         ("omlx", ForeignFolderError)):  # fmt: skip
        with pytest.raises(error) as raised:
            raise run(name, tmp_path / place, *options).exception
        assert str(tmp_path / place) in str(raised.value)
        assert "\n" not in str(raised.value)
    assert sorted(theirs.rglob("*")) == before
    assert not any((tmp_path / "empty").iterdir())


def test_an_error_of_the_command_is_one_line(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "hwledger_omlx.cli", "cache", "info", str(tmp_path / "none")],
        env=os.environ, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"hwledger-omlx: no cache at {tmp_path / 'none'}: there is no such folder\n"
