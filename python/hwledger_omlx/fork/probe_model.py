"""A tiny random model, made on the spot, for self-tests and tests that need an engine and no sense in what it says.

Qwen3 architecture, hidden size 64, 2 layers, byte-level vocabulary of 260, float32, about 1 MB; the same every time.
"""

import importlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hwledger_omlx.fork import threads

_SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|eos|>")
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(folder: Path, *, seed: int = 0) -> Path:
    """Writes the model into `folder`, which is made where it is missing, and returns the folder.

    Args:
        folder: gets `config.json`, `model.safetensors` and the tokenizer's files.
        seed: of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder)
    _write_weights(folder, seed)
    return folder


@asynccontextmanager
async def engine(model: Path, prepare: Callable[[Any], None] | None = None) -> AsyncIterator[Any]:
    """The loaded fork's own `BatchedEngine` on the model, started, and stopped at the end.

    Args:
        model: from `write`.
        prepare: changes the fork's `SchedulerConfig` before the engine gets it.
    """
    scheduler = importlib.import_module("omlx.scheduler")
    batched = importlib.import_module("omlx.engine.batched")
    config = scheduler.SchedulerConfig()
    if prepare is not None:
        prepare(config)
    made = batched.BatchedEngine(model_name=str(model), scheduler_config=config)
    await made.start()
    threads.end_without_streams(made._engine.engine)
    try:
        yield made
    finally:
        await made.stop()


async def answer(made: Any, prompt: str, max_tokens: int) -> tuple[str, int]:
    """The greedy answer, and the most bytes that the layer caches of the running batch held meanwhile.

    Args:
        made: from `engine`.
        prompt: text to continue.
        max_tokens: of the answer.
    """
    scheduler = made._engine.engine.scheduler
    most, text = 0, ""
    async for output in made.stream_generate(prompt, max_tokens=max_tokens, temperature=0.0):
        batch = scheduler.batch_generator
        running = [] if batch is None else batch._generation_batch.prompt_cache
        most = max(most, sum(int(cache.nbytes) for cache in running))
        text = str(output.text)
    return text, most


def _config() -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 256 + len(_SPECIAL),
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "torch_dtype": "float32",
    }


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|eos|>",
        "pad_token": "<|pad|>",
        "model_max_length": 4096,
        "chat_template": _TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _write_weights(folder: Path, seed: int) -> None:
    # numpy, not mx.random: nothing here may touch the random state of the thread.
    import numpy as np
    from safetensors.numpy import save_file

    config = _config()
    draw = np.random.default_rng(seed)
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head

    def matrix(rows: int, columns: int) -> Any:
        return (draw.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)

    weights: dict[str, Any] = {
        "model.embed_tokens.weight": draw.standard_normal((config["vocab_size"], hidden)).astype(np.float32) * 0.2,
        "model.norm.weight": np.ones(hidden, np.float32),
    }
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        shapes = {
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        weights |= {f"{name}{part}.weight": matrix(*shape) for part, shape in shapes.items()}
        for part, size in (
            ("self_attn.q_norm", head),
            ("self_attn.k_norm", head),
            ("input_layernorm", hidden),
            ("post_attention_layernorm", hidden),
        ):
            weights[f"{name}{part}.weight"] = np.ones(size, np.float32)
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
