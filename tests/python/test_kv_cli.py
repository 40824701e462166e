"""`hwledger-omlx kv` on a tiny model: what it prints and keeps, and what it says is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hwledger_omlx.cli.kv import kv_app
from hwledger_omlx.errors import KvProfileNotFoundError, KvTextError, ModelNotFoundError
from hwledger_omlx.fork import probe_model
from hwledger_omlx.kv import profile as profiles


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 3, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def uncalibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return probe_model.write(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> tuple[Path, Any]:
    """A model that was calibrated, and what `--json` printed."""
    model = probe_model.write(tmp_path_factory.mktemp("models") / "calibrated", seed=2)
    done = CliRunner().invoke(kv_app, ["calibrate", str(model), "--text", str(text_file), "--tokens", "72", "--json"])
    assert done.exit_code == 0, done.output
    return model, json.loads(done.stdout)


def test_calibrate_prints_the_profile_that_it_keeps(calibrated: tuple[Path, Any]) -> None:
    model, printed = calibrated
    assert (printed["version"], printed["tokens"], len(printed["layers"])) == (1, 72, 2)
    assert {"affine:4:32", "channel:4:64", "rotated:4"} <= set(printed["layers"][0]["k"])
    kept = profiles.text_of(profiles.fingerprint(model), "calibrated")
    assert json.loads(kept) == printed


def test_show_without_a_policy_is_the_profile(calibrated: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    model, printed = calibrated
    done = CliRunner().invoke(kv_app, ["show", str(model)])
    assert done.exit_code == 0, done.output
    assert "calibrated, measured on 72 tokens" in done.stdout
    assert f"{printed['layers'][0]['k']['affine:2:32']['kl']:.5f}" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert json.loads(CliRunner().invoke(kv_app, ["show", str(model), "--json"]).stdout) == printed


def test_show_draws_the_dial_of_a_policy(
    calibrated: tuple[Path, Any], uncalibrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    model, printed = calibrated
    done = CliRunner().invoke(kv_app, ["show", str(model), "--kv", "auto:0.2"])
    assert done.exit_code == 0, done.output
    assert "nats predicted" in " ".join(done.stdout.split())
    told = json.loads(
        CliRunner().invoke(kv_app, ["show", str(model), "--kv", "affine:4:32", "--tokens", "64", "--json"]).stdout
    )
    assert told["nbytes"] == 2 * 2 * 64 * 2 * 32 * 6 // 8
    parts = [layer[part]["affine:4:32"]["kl"] for layer in printed["layers"] for part in ("k", "v")]
    assert told["predicted_kl"] == pytest.approx(sum(parts))
    without = CliRunner().invoke(kv_app, ["show", str(uncalibrated), "--kv", "affine:8:32", "--json"])
    assert json.loads(without.stdout)["predicted_kl"] is None


def test_what_is_wrong_is_said(text_file: Path, uncalibrated: Path, tmp_path: Path) -> None:
    def error(*arguments: str) -> BaseException | None:
        return CliRunner().invoke(kv_app, arguments).exception

    model = str(uncalibrated)
    assert isinstance(error("calibrate", model, "--text", str(tmp_path / "none")), KvTextError)
    assert isinstance(error("calibrate", model, "--text", str(tmp_path)), KvTextError)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\xff")
    assert isinstance(error("calibrate", model, "--text", str(binary)), KvTextError)
    short = tmp_path / "short"
    short.write_text("too short", encoding="utf-8")
    assert "9 tokens" in str(error("calibrate", model, "--text", str(short)))
    assert isinstance(error("calibrate", str(tmp_path / "m"), "--text", str(text_file)), ModelNotFoundError)
    assert isinstance(error("show", str(tmp_path / "m")), ModelNotFoundError)
    assert isinstance(error("show", model), KvProfileNotFoundError)
    assert isinstance(error("show", model, "--kv", "auto:0.3"), KvProfileNotFoundError)
    assert "kv calibrate" in str(error("show", model))
