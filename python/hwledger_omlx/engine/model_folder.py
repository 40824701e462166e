"""From what the caller calls a model to a folder that can be loaded: found, fetched, and looked over before any weights
are read. Knows the files of a Hugging Face model folder; nothing of MLX or the fork.

Safetensors' format: https://github.com/huggingface/safetensors#format (8 bytes of little-endian header length, a JSON
header with each tensor's byte range, then the data).
"""

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwledger_omlx.errors import ModelError, ModelNotFoundError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FETCHED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py"]
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "tiktoken.model", "spiece.model")
_LARGEST_HEADER_BYTES = 100_000_000  # the limit that the safetensors library itself sets


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A local folder that holds a model."""

    path: Path
    model_type: str
    """`model_type` of config.json, such as `qwen3`."""
    context_tokens: int | None
    """Longest context that config.json allows; None where it does not say."""
    vocab_tokens: int | None
    """Size of the vocabulary; None where config.json does not say."""
    weights_bytes: int
    """Size of the safetensors files."""

    @property
    def model_id(self) -> str:
        """The name under which the engine knows the model: its folder's, or the hub's for a snapshot of it."""
        if self.path.parent.name == "snapshots" and self.path.parent.parent.name.startswith("models--"):
            return self.path.parent.parent.name.rsplit("--", 1)[-1]
        return self.path.name

    def require_tokenizer(self) -> None:
        """Some kinds of model have none.

        Raises:
            ModelError: there is none.
        """
        if not any((self.path / name).exists() for name in _TOKENIZERS):
            raise ModelError(f"{self.path} has no tokenizer ({', '.join(_TOKENIZERS)}); fetch the model again, whole")


def locate(model: str | Path) -> ModelFolder:
    """The folder of `model`, a local path or a Hugging Face id.

    Raises:
        ModelNotFoundError: nothing there, and nothing to be had from the hub.
        ModelError: a folder, but no model that could be loaded; says which file is wrong.
    """
    if not isinstance(model, str | Path) or not str(model):
        raise ModelNotFoundError(f"a model is a folder or a Hugging Face id, not {model!r}")
    path = Path(model).expanduser()
    if path.is_dir():
        return _inspected(path.resolve())
    if path.exists():
        raise ModelError(f"{model} is a file; give the folder that holds config.json and the weights")
    if isinstance(model, str) and _HUB_ID.fullmatch(model):
        return _inspected(_fetched(model))
    raise ModelNotFoundError(
        f"no model at {model}: there is no such folder; give a folder with config.json and *.safetensors, "
        "or a Hugging Face id such as 'mlx-community/Qwen3-0.6B-4bit'"
    )


def _fetched(hub_id: str) -> Path:
    # Imported here: a local folder must not pay for the hub's client.
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_FETCHED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNotFoundError(
            f"no folder {hub_id} here, and the hub did not give it: {reason} Give a local folder, or go online."
        ) from error


def _inspected(path: Path) -> ModelFolder:
    config = _config(path)
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ModelError(f"{path / 'config.json'} names no model_type; is this a model of Hugging Face's format?")
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise ModelError(
            f"{path} has no *.safetensors; convert the model first (`mlx_lm.convert --hf-path {path} --mlx-path OUT`)"
        )
    _check_shards(path, {file.name for file in weights})
    for file in weights:
        _check_weights(file)
    return ModelFolder(
        path,
        model_type,
        context_tokens=_text_setting(config, "max_position_embeddings"),
        vocab_tokens=_text_setting(config, "vocab_size"),
        weights_bytes=sum(file.stat().st_size for file in weights),
    )


def _config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is no model folder: it has no config.json") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{file} holds no JSON object")
    return config


def _text_setting(config: dict[str, Any], name: str) -> int | None:
    """A positive number of the text model's configuration, which multimodal models nest."""
    text_config = config.get("text_config")
    for source in (text_config if isinstance(text_config, dict) else {}, config):
        value = source.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _check_shards(path: Path, present: set[str]) -> None:
    index = path / "model.safetensors.index.json"
    if not index.exists():
        return
    try:
        wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"{index} cannot be read: {error!r}") from error
    if missing := sorted(wanted - present):
        raise ModelError(f"{path} is incomplete: {', '.join(missing)} of the index is missing; fetch the model again")


def _check_weights(file: Path) -> None:
    try:
        # Also where it is a link to what is gone, as a broken download of the hub leaves it.
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= header_bytes <= min(size - 8, _LARGEST_HEADER_BYTES):
                raise ModelError(f"{file} is no safetensors file or cut off within its header; fetch it again")
            header = json.loads(stream.read(header_bytes))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ModelError(f"{file} has a broken safetensors header ({error!r}); fetch it again") from error
    promised = 8 + header_bytes + max(ends, default=0)
    if size < promised:
        raise ModelError(f"{file} is cut off: its header promises {promised} bytes and it has {size}; fetch it again")
