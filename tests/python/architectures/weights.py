"""Makes a model folder: config.json, random but always equal weights in float32, and a tokenizer of bytes.

The weights are such that greedy text depends on the whole prompt and stays within plain ASCII: attention is sharp, the
state outweighs the last token, and tokens that could not be sent back as text are never the likeliest.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from architectures.models import VOCABULARY, Architecture

SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|bos|>")
END_OF_TURN = "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SHARP = ("q_proj", "k_proj", "q_b_proj", "embed_q")
_SHARP_NORMS = ("q_norm", "k_norm", "q_layernorm", "k_layernorm")
_SAID = "".join(chr(code) for code in range(33, 127) if chr(code) != "<")


def write(folder: Path, architecture: Architecture, *, end_of_turn_gain: float = 0.0) -> Path:
    """Writes the model into `folder`, which is made where it is missing, and returns the folder.

    Args:
        folder: gets `config.json`, `model.safetensors` and the tokenizer's files.
        architecture: what to make.
        end_of_turn_gain: size of the output weights of the end-of-turn token beside the others'; at 0.0 it never comes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids = _write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(architecture.whole_config, indent=1), encoding="utf-8")
    _write_weights(folder, architecture, ids, end_of_turn_gain)
    return folder


def _write_tokenizer(folder: Path) -> dict[str, int]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TURN,
        "pad_token": "<|pad|>",
        "model_max_length": 8192,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return ids


def _write_weights(folder: Path, architecture: Architecture, ids: dict[str, int], end_of_turn_gain: float) -> None:
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes
    from safetensors.numpy import save_file

    config = architecture.whole_config
    model_class, args_class = _get_classes(config)
    parameters = tree_flatten(model_class(args_class.from_dict(config)).parameters())
    names = {name for name, _ in parameters}
    head = next((name for name in names if name.endswith("lm_head.weight")), None)
    weights: dict[str, Any] = {}
    for name, parameter in parameters:
        # Each its own seed: what one parameter is, doesn't depend on the order or the shapes of the others.
        draw = np.random.default_rng(zlib.crc32(f"{architecture.name} {architecture.seed} {name}".encode()))
        gain = next((factor for part, factor in architecture.gains.items() if part in name), 1.0)
        weights[name] = (_values(name, parameter, draw) * gain).astype(np.float32)
    if head is None:
        head = next(name for name in names if name.endswith(("embed_tokens.weight", "embeddings.weight")))
    _silence(weights[head], ids, end_of_turn_gain)
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "mlx"})


def _values(name: str, parameter: Any, draw: np.random.Generator) -> Any:
    shape = tuple(parameter.shape)
    last = name.rsplit(".", 1)[-1]
    if "norm" in name and len(shape) == 1:
        # q and k of unit size give dull attention, an average over the whole prompt.
        return np.array(parameter) * (3.0 if any(part in name for part in _SHARP_NORMS) else 1.0)
    if last == "A_log":
        return np.log(np.linspace(0.25, 2.0, shape[0]))
    if last == "D":
        return np.full(shape, 0.1)
    if last == "dt_bias":
        # Steps so short that a state remembers hundreds of tokens.
        return draw.uniform(-7.0, -3.0, shape)
    if len(shape) == 1:
        return draw.standard_normal(shape) * 0.1
    if "embed" in name and shape[0] == VOCABULARY:
        return draw.standard_normal(shape) * 0.5
    if len(shape) == 3 and shape[-1] == 1:  # a convolution over time, a channel each
        return draw.standard_normal(shape) * 0.6
    sharp = 3.0 if any(part in name for part in _SHARP) else 1.0
    return draw.standard_normal(shape) / shape[-1] ** 0.5 * sharp


def _silence(head: Any, ids: dict[str, int], end_of_turn_gain: float) -> None:
    said = {ids[character] for character in _SAID}
    for index in range(len(head)):
        if index not in said:
            head[index] *= end_of_turn_gain if index == ids[END_OF_TURN] else 1e-3
