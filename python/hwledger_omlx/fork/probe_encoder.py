"""Tiny random encoders, made on the spot: BERT and XLM-RoBERTa, for vectors or, with a classifier, for rerank scores.

Hidden size 32, 2 layers, byte-level vocabulary, 64 positions, float32, about 150 kB; the same every time. As the files
of real models do, `tokenizer.json` asks for padding to a fixed length.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

Kind = Literal["bert", "xlm-roberta", "xlm-roberta-reranker"]

_SPECIAL = {"bert": ("[PAD]", "[CLS]", "[SEP]"), "xlm-roberta": ("<s>", "<pad>", "</s>")}
_POSITIONS = 64
_FIXED_PADDING_TOKENS = 48


def write(folder: Path, kind: Kind, *, seed: int = 0, pooling: str | None = None) -> Path:
    """Writes the model into `folder`, which is made where it is missing, and returns the folder.

    Args:
        folder: gets `config.json`, `model.safetensors` and the tokenizer's files.
        kind: architecture, and what it is for.
        seed: of the weights.
        pooling: has the folder ask for this way to pool, as sentence-transformers' folders do; None for none.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = _config(kind)
    _write_tokenizer(folder, config["model_type"], config["pad_token_id"])
    save_file(weights(config, seed), str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    if pooling is not None:
        _write_pipeline(folder, pooling)
    return folder


def _config(kind: Kind) -> dict[str, Any]:
    bert = kind == "bert"
    config: dict[str, Any] = {
        "architectures": ["BertModel" if bert else "XLMRobertaModel"],
        "model_type": "bert" if bert else "xlm-roberta",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 256 + 3,
        "max_position_embeddings": _POSITIONS if bert else _POSITIONS + 2,
        "type_vocab_size": 2 if bert else 1,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "pad_token_id": 0 if bert else 1,
    }
    if kind == "xlm-roberta-reranker":
        config |= {
            "architectures": ["XLMRobertaForSequenceClassification"],
            "id2label": {"0": "LABEL_0"},
            "label2id": {"LABEL_0": 0},
        }
    return config


def weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """The arrays of an encoder, by the names of its checkpoint, from a generator of NumPy's."""
    import numpy as np

    draw = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    made: dict[str, Any] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        made[f"{name}.weight"] = (draw.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)
        made[f"{name}.bias"] = draw.standard_normal(rows).astype(np.float32) * np.float32(0.1)

    def norm(name: str) -> None:
        made[f"{name}.weight"] = (1 + 0.1 * draw.standard_normal(hidden)).astype(np.float32)
        made[f"{name}.bias"] = draw.standard_normal(hidden).astype(np.float32) * np.float32(0.1)

    for name, rows in (
        ("word", config["vocab_size"]),
        ("position", config["max_position_embeddings"]),
        ("token_type", config["type_vocab_size"]),
    ):
        made[f"embeddings.{name}_embeddings.weight"] = draw.standard_normal((rows, hidden)).astype(np.float32)
    norm("embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        for part in ("query", "key", "value"):
            linear(f"{at}attention.self.{part}", hidden, hidden)
        linear(f"{at}attention.output.dense", hidden, hidden)
        norm(f"{at}attention.output.LayerNorm")
        linear(f"{at}intermediate.dense", inner, hidden)
        linear(f"{at}output.dense", hidden, inner)
        norm(f"{at}output.LayerNorm")
    if config["architectures"] == ["XLMRobertaForSequenceClassification"]:
        made = {f"roberta.{name}": array for name, array in made.items()}
        linear("classifier.dense", hidden, hidden)
        linear("classifier.out_proj", 1, hidden)
    else:
        linear("pooler.dense", hidden, hidden)
    return made


def _write_tokenizer(folder: Path, model_type: str, pad_id: int) -> None:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    special = _SPECIAL[model_type]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    bert = model_type == "bert"
    first, end = (special[1], special[2]) if bert else (special[0], special[2])
    between = [end] if bert else [end, end]
    second = 1 if bert else 0
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[first, "$A", end],
        pair=[first, "$A", *between, f"$B:{second}", f"{end}:{second}"],
        special_tokens=[(token, vocabulary[token]) for token in (first, end)],
    )
    pad = special[pad_id]
    tokenizer.enable_padding(length=_FIXED_PADDING_TOKENS, pad_id=pad_id, pad_token=pad)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "cls_token": first,
        "sep_token": end,
        "pad_token": pad,
        "model_max_length": _POSITIONS,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _write_pipeline(folder: Path, pooling: str) -> None:
    steps = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    flags = {f"pooling_mode_{mode}": mode == pooling for mode in modes}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, **flags}), encoding="utf-8"
    )
    (folder / "2_Normalize").mkdir(exist_ok=True)
