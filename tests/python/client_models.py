"""Models made on the spot for the server's clients: one that calls a tool, and one that embeds texts. 300 kB together.

The first one's weights are a script: the state is the last token alone, and each token of a chain has one follower. So
it answers a question that comes with tools by a call of the first tool, and everything else by the same sentence.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

TOOL = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ARGUMENTS = {"city": "Rome"}
ANSWER = "It is sunny."
EMBEDDING_WIDTH = 32

_MARKS = ("<|pad|>", "<|end|>", "<|calls|>", "<|answers|>")
_CALL = ("<tool_call>", '{"name": "weather", "arguments": {"city": "Rome"}}', "</tool_call>")
_SENTENCE = ("It", " is", " sunny.")
_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}"
    "{% for tool_call in message.tool_calls or [] %}<tool_call>{{ tool_call.name }}</tool_call>{% endfor %}\n"
    "{% endfor %}{{ '<|calls|>' if tools and messages[-1].role == 'user' else '<|answers|>' }}"
)


def write_caller(folder: Path, *, fails: bool = False) -> Path:
    """Writes the model that calls a tool into `folder`, and returns the folder.

    Args:
        folder: gets its files.
        fails: leaves an id of the vocabulary out, at which mlx-lm fails as soon as there is a token to decode.
    """
    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Byte-level text has another letter for the space.
    said = [text.replace(" ", "Ġ") for text in (_CALL[1], *_SENTENCE)]
    names = [*_MARKS, _CALL[0], _CALL[2], *alphabet, *said]
    ids = {name: index for index, name in enumerate(names)}
    if fails:
        ids[alphabet[0]] = len(ids) + 1
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in _MARKS])
    tokenizer.add_tokens([AddedToken(name, special=False) for name in (_CALL[0], _CALL[2])])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|end|>",
            "pad_token": "<|pad|>",
            "model_max_length": 4096,
            "chat_template": _TEMPLATE,
        },
    )
    chains = (("<|calls|>", _CALL[0], said[0], _CALL[2]), ("<|answers|>", *said[1:]))
    followers = dict.fromkeys(ids, "<|end|>")
    for chain in chains:
        followers |= dict(itertools.pairwise(chain))
    _write_chain(folder, [ids[followers[name]] for name in names], ids["<|end|>"])
    return folder


def _write_chain(folder: Path, followers: list[int], end: int) -> None:
    count = len(followers)
    width, head = 64 * -(-count // 64), 32
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": width,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": head,
        "vocab_size": count,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "eos_token_id": end,
    }
    embedding, output = np.zeros((count, width), np.float32), np.zeros((count, width), np.float32)
    for token, follower in enumerate(followers):
        embedding[token, token] = 1.0
        output[follower, token] = 10.0
    # The layer adds nothing: all that it writes is zero.
    layer = {
        "self_attn.q_proj": (head, width),
        "self_attn.k_proj": (head, width),
        "self_attn.v_proj": (head, width),
        "self_attn.o_proj": (width, head),
        "mlp.gate_proj": (32, width),
        "mlp.up_proj": (32, width),
        "mlp.down_proj": (width, 32),
    }
    norms = {"self_attn.q_norm": head, "self_attn.k_norm": head, "input_layernorm": width}
    weights: dict[str, Any] = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": output,
        "model.norm.weight": np.ones(width, np.float32),
        "model.layers.0.post_attention_layernorm.weight": np.ones(width, np.float32),
    }
    weights |= {f"model.layers.0.{name}.weight": np.zeros(shape, np.float32) for name, shape in layer.items()}
    weights |= {f"model.layers.0.{name}.weight": np.ones(size, np.float32) for name, size in norms.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "mlx"})
    _write_json(folder / "config.json", config)


def write_embedder(folder: Path) -> Path:
    """Writes a random BERT of two layers into `folder`, and returns the folder."""
    folder.mkdir(parents=True)
    width, inner, letters = EMBEDDING_WIDTH, 64, "abcdefghijklmnopqrstuvwxyz"
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 128})
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "type_vocab_size": 2,
        "vocab_size": len(names),
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    _write_json(folder / "config.json", config)
    draw = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> Any:
        return (draw.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)

    weights: dict[str, Any] = {
        "embeddings.word_embeddings.weight": matrix(len(names), width),
        "embeddings.position_embeddings.weight": matrix(128, width),
        "embeddings.token_type_embeddings.weight": matrix(2, width),
    }
    linear = {"pooler.dense": (width, width)}
    normed = ["embeddings"]
    for index in range(2):
        layer = f"encoder.layer.{index}"
        linear |= {f"{layer}.attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        linear |= {
            f"{layer}.attention.output.dense": (width, width),
            f"{layer}.intermediate.dense": (inner, width),
            f"{layer}.output.dense": (width, inner),
        }
        normed += [f"{layer}.attention.output", f"{layer}.output"]
    for name, shape in linear.items():
        weights |= {f"{name}.weight": matrix(*shape), f"{name}.bias": np.zeros(shape[0], np.float32)}
    for name in normed:
        weights[f"{name}.LayerNorm.weight"] = np.ones(width, np.float32)
        weights[f"{name}.LayerNorm.bias"] = np.zeros(width, np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _write_json(file: Path, said: dict[str, Any]) -> None:
    file.write_text(json.dumps(said), encoding="utf-8")
