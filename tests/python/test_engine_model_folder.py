"""What is no model is said before any weights are read, with the file that is wrong."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import hwledger_omlx as hw
from hwledger_omlx.engine.model_folder import locate


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def edit_config(model: Path, **changes: object) -> None:
    config = json.loads((model / "config.json").read_text())
    config.update(changes)
    (model / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_a_model_is_described(model: Path) -> None:
    edit_config(model, max_position_embeddings=None, text_config={"max_position_embeddings": 777})
    folder = locate(model)
    assert (folder.path, folder.model_id, folder.model_type, folder.context_tokens) == (model, "model", "qwen3", 777)
    assert folder.weights_bytes == (model / "model.safetensors").stat().st_size


def test_a_snapshot_of_the_hub_goes_by_the_name_it_has_there(model: Path) -> None:
    snapshot = model.parent / "models--org--Name-4bit" / "snapshots" / "0123abcd"
    snapshot.parent.mkdir(parents=True)
    model.rename(snapshot)
    assert locate(snapshot).model_id == "Name-4bit"


def test_what_names_no_model() -> None:
    for nothing in ("", None, 5):
        with pytest.raises(hw.ModelNotFoundError, match="a folder or a Hugging Face id, not"):
            locate(nothing)  # type: ignore[arg-type]


def truncated(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def gone(file: Path) -> None:
    """As the hub's cache has it where the file that it links to was deleted."""
    file.unlink()
    file.symlink_to(file.with_name("deleted"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda m: (m / "config.json").unlink(), "no config.json"),
        (lambda m: (m / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda m: (m / "config.json").write_text("[]"), "holds no JSON object"),
        (lambda m: (m / "config.json").write_text('{"a":' * 100_000), "config.json cannot be read"),
        (lambda m: edit_config(m, model_type=None), "names no model_type"),
        (lambda m: gone(m / "model.safetensors"), "model.safetensors cannot be read"),
        (lambda m: (m / "model.safetensors").unlink(), r"no \*.safetensors; convert the model"),
        (lambda m: truncated(m / "model.safetensors", 0), "cut off within its header"),
        (lambda m: truncated(m / "model.safetensors", 100), "cut off within its header"),
        (lambda m: truncated(m / "model.safetensors", 60_000), "is cut off: its header promises"),
        (lambda m: (m / "model.safetensors").write_bytes(b"x" * 5000), "cut off within its header"),
        (
            lambda m: (m / "model.safetensors").write_bytes(struct.pack("<Q", 9) + b'{"a": 1} '),
            "broken safetensors header",
        ),
        (
            lambda m: (m / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}'),
            "b.safetensors of the index is missing",
        ),
        (lambda m: (m / "model.safetensors.index.json").write_text("{}"), "index.json cannot be read"),
    ],
)
def test_a_damaged_folder_names_the_file(model: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(model)
    with pytest.raises(hw.ModelError, match=said):
        locate(model)


def test_a_model_that_needs_a_tokenizer_says_so(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    with pytest.raises(hw.ModelError, match="has no tokenizer"):
        locate(model).require_tokenizer()
    with pytest.raises(hw.ModelError, match="has no tokenizer"):
        hw.Engine(model, cache=None)


def test_a_place_without_a_model(model: Path, tmp_path: Path) -> None:
    with pytest.raises(hw.ModelNotFoundError, match="no such folder; give a folder"):
        locate(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        locate(str(tmp_path / "nowhere"))
    with pytest.raises(hw.ModelError, match="is a file; give the folder"):
        locate(model / "config.json")


def test_a_hub_id_that_is_not_to_be_had() -> None:
    with pytest.raises(hw.ModelNotFoundError, match=r"the hub did not give it: .* Give a local folder, or go online"):
        locate("no-such-org/no-such-model")
