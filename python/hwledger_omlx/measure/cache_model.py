"""Models for the cache bench, made on the spot: the Qwen3 architecture in a wanted size, with random weights.

What a cache saves is computing, so the weights need no sense; that every contestant computes the same does matter. One
printable ASCII character is one token, so a prompt of N tokens is N characters, and the answer's tokens are printable
too: the output layer's other rows are zero, hence never the likeliest, so no text ends by itself.
Knows the files of a Hugging Face model folder and MLX; nothing of engines.
"""

import importlib
import json
import random
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SPECIAL = ("<|pad|>", "<|end|>")
_PRINTABLE = string.ascii_letters + string.digits
_QUERY_SCALE = 4.0
"""Of the queries' norm. With 1, random queries and keys would spread attention over the whole prompt, and one wrong
token would change nothing; so they look at a few tokens, and the answer says that the right ones were there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomModel:
    """What to make."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    """`float32`, which MLX computes fastest on a CPU, or `bfloat16`."""
    context_tokens: int
    seed: int = 0

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that a token takes in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * (4 if self.dtype == "float32" else 2)

    @property
    def parameters(self) -> int:
        """Number of weights, the embedding counted in."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        norms = 2 * self.hidden + 2 * self.head_dim
        layer = attention + 3 * self.hidden * self.intermediate + norms
        return self.layers * layer + self.hidden * (1 + 2 * _vocabulary_tokens())

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of the weights' file, within a percent."""
        return self.parameters * (4 if self.dtype == "float32" else 2)

    def __str__(self) -> str:
        """For a report: `145 M parameters, 24.6 kB of KV a token, float32`."""
        count = f"{self.parameters / 1e9:.2g} G" if self.parameters >= 1e9 else f"{self.parameters / 1e6:.3g} M"
        return f"{count} parameters, {self.kv_bytes_per_token / 1e3:.4g} kB of KV a token, {self.dtype}"

    def write(self, folder: Path) -> Path:
        """Writes `config.json`, the weights and the tokenizer's files into `folder`, which is made, and returns it."""
        folder.mkdir(parents=True)
        _write_tokenizer(folder, self.context_tokens)
        (folder / "config.json").write_text(json.dumps(self._config(), indent=1), encoding="utf-8")
        self._write_weights(folder / "model.safetensors")
        return folder

    def _config(self) -> dict[str, Any]:
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": _vocabulary_tokens(),
            "max_position_embeddings": self.context_tokens,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "tie_word_embeddings": False,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "torch_dtype": self.dtype,
        }

    def _write_weights(self, file: Path) -> None:
        mx = importlib.import_module("mlx.core")
        dtype = getattr(mx, self.dtype)
        # Keys of its own: the random state of the process stays as it is.
        keys = iter(mx.random.split(mx.random.key(self.seed), 7 * self.layers + 2))

        def matrix(rows: int, columns: int) -> Any:
            made = (mx.random.normal((rows, columns), key=next(keys)) / columns**0.5).astype(dtype)
            # One by one: a lazy graph of all would hold them in float32 at once.
            mx.eval(made)
            return made

        vocabulary = _vocabulary()
        printable = mx.array([token in _PRINTABLE for token in vocabulary])
        # The head is not the embedding, which would have every token call for itself, whatever came before it.
        weights = {
            "model.embed_tokens.weight": matrix(len(vocabulary), self.hidden),
            "lm_head.weight": mx.where(printable[:, None], matrix(len(vocabulary), self.hidden), 0).astype(dtype),
            "model.norm.weight": mx.ones((self.hidden,), dtype),
        }
        queries, keys_and_values = self.heads * self.head_dim, self.kv_heads * self.head_dim
        for layer in range(self.layers):
            name = f"model.layers.{layer}."
            shapes = {
                "self_attn.q_proj": (queries, self.hidden),
                "self_attn.k_proj": (keys_and_values, self.hidden),
                "self_attn.v_proj": (keys_and_values, self.hidden),
                "self_attn.o_proj": (self.hidden, queries),
                "mlp.gate_proj": (self.intermediate, self.hidden),
                "mlp.up_proj": (self.intermediate, self.hidden),
                "mlp.down_proj": (self.hidden, self.intermediate),
            }
            weights |= {f"{name}{part}.weight": matrix(*shape) for part, shape in shapes.items()}
            for part, size in (
                ("self_attn.q_norm", self.head_dim),
                ("self_attn.k_norm", self.head_dim),
                ("input_layernorm", self.hidden),
                ("post_attention_layernorm", self.hidden),
            ):
                scale = _QUERY_SCALE if part == "self_attn.q_norm" else 1.0
                weights[f"{name}{part}.weight"] = mx.full((size,), scale, dtype)
        mx.save_safetensors(str(file), weights, metadata={"format": "mlx"})
        del weights
        # The contestants need the accelerator's memory.
        mx.clear_cache()


def text_of(tokens: int, *key: object) -> str:
    """A text of exactly `tokens` tokens for the models made here. Same key, same text; another key, another text."""
    source = random.Random("/".join(map(str, key)))  # noqa: S311  (no secret; must be reproducible)
    return "".join(source.choices(_PRINTABLE, k=tokens))


def _vocabulary() -> list[str]:
    from tokenizers import pre_tokenizers

    return [*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]


def _vocabulary_tokens() -> int:
    return len(_SPECIAL) + 256


def _write_tokenizer(folder: Path, context_tokens: int) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: index for index, token in enumerate(_vocabulary())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "model_max_length": context_tokens,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
