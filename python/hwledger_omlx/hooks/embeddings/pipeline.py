"""What the folder of a sentence-transformers model says of how texts become vectors. Knows JSON files, nothing of MLX.

`modules.json` lists the steps; a pooling step's `config.json` says how, and
`sentence_bert_config.json` what is done before.
https://sbert.net/docs/package_reference/sentence_transformer/models.html
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Pooling = Literal["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

# As `Pooling` of sentence-transformers names the settings of its versions before 5.
_FLAGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_STEPS = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """From a text to a vector."""

    pooling: Pooling = "mean"
    """How the vectors of the tokens become one."""
    longest_tokens: int | None = None
    """Where texts are cut off; None where the folder does not say."""
    lower_case: bool = False


def read(folder: Path) -> Pipeline:
    """The pipeline of a model's folder; that of sentence-transformers for a bare encoder where it describes none.

    Raises:
        ValueError: it has a step, or a way to pool, that is not known here; the vectors would be wrong without.
    """
    steps = _json(folder / "modules.json", [])
    pooling: Pooling = "mean"
    for step in steps:
        kind = str(step.get("type", "")).rpartition(".")[2]
        if kind not in _STEPS:
            raise ValueError(f"{folder / 'modules.json'} asks for a step {kind!r}; known are {', '.join(_STEPS)}")
        if kind == "Pooling":
            pooling = _pooling(folder / str(step.get("path", "")) / "config.json")
    settings = _json(folder / "sentence_bert_config.json", {})
    longest = settings.get("max_seq_length")
    return Pipeline(pooling, longest if isinstance(longest, int) else None, bool(settings.get("do_lower_case", False)))


def _pooling(file: Path) -> Pooling:
    settings = _json(file, {})
    mode = settings.get("pooling_mode")
    wanted = [name for flag, name in _FLAGS.items() if settings.get(flag)] if mode is None else [mode]
    if len(wanted) != 1 or wanted[0] not in _FLAGS.values():
        raise ValueError(f"{file} asks to pool by {' and '.join(map(str, wanted)) or 'nothing'}")
    found: Pooling = wanted[0]
    return found


def _json(file: Path, absent: Any) -> Any:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return absent
    if not isinstance(content, type(absent)):
        raise ValueError(f"{file} holds no {'list' if isinstance(absent, list) else 'object'}")
    return content
