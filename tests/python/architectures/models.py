"""The table of architectures: mlx-lm's configuration of each, and which caches it keeps its state in.

Sizes are as small as each architecture allows; names of settings are those of Hugging Face's config.json.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VOCABULARY = 260
"""Four special tokens and 256 bytes."""
WINDOW_TOKENS = 96
"""Sliding windows and chunks: many times shorter than a prompt, and no divisor of the blocks of 256."""
_LAYERS = 4


@dataclass(frozen=True)
class Architecture:
    """One architecture of mlx-lm in one configuration."""

    name: str
    config: dict[str, Any]
    """config.json, without what all have in common."""
    caches: frozenset[str]
    """Names of the classes of `mlx_lm.models.cache` that `make_cache()` gives, those inside a `CacheList` too."""
    gains: dict[str, float] = field(default_factory=dict)
    """Part of a parameter's name → factor on its random values, where the usual scale gives dull text."""
    seed: int = 0
    """Of the weights: one whose text is lively and turns on single tokens."""
    batches: bool = True
    """Whether the fork can decode two requests of it at once."""

    @property
    def cut_anywhere(self) -> bool:
        """Whether the state of a shorter prefix is made of parts of the state of a longer one.

        A token's K and V in a sliding window do not depend on where the window begins, so they can be kept as well.
        """
        return self.caches <= {"KVCache", "CacheList", "RotatingKVCache"}

    @property
    def stored(self) -> bool:
        """Whether its state is stored at all."""
        return "ChunkedKVCache" not in self.caches

    @property
    def whole_config(self) -> dict[str, Any]:
        """config.json."""
        common = {
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 8192,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "torch_dtype": "float32",
        }
        if "text_config" in self.config:
            return {**common, **self.config, "text_config": {**common, **self.config["text_config"]}}
        return {**common, **self.config}


def _attention(model_type: str, **settings: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        **settings,
    }


def _latent_attention(model_type: str, **settings: Any) -> dict[str, Any]:
    """MLA: K and V of a token are one latent vector, and a rotary part that all heads share."""
    config = _attention(
        model_type,
        kv_lora_rank=32,
        q_lora_rank=48,
        qk_rope_head_dim=32,
        qk_nope_head_dim=24,
        v_head_dim=32,
        **settings,
    )
    del config["head_dim"]
    return config


_ROUTED = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_LOCAL_THEN_GLOBAL = ["sliding_attention", "full_attention"] * (_LAYERS // 2)

ARCHITECTURES = (
    Architecture("llama", _attention("llama"), frozenset({"KVCache"}), {"o_proj": 2.0}),
    Architecture("qwen3", _attention("qwen3", num_attention_heads=4), frozenset({"KVCache"}), {"o_proj": 2.0}),
    Architecture("llama-mqa", _attention("llama", num_key_value_heads=1), frozenset({"KVCache"})),
    Architecture(
        "qwen3-moe",
        _attention(
            "qwen3_moe",
            num_experts=4,
            num_experts_per_tok=2,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            moe_intermediate_size=32,
            norm_topk_prob=True,
        ),
        frozenset({"KVCache"}),
    ),
    Architecture(
        "deepseek-v3",
        _latent_attention("deepseek_v3", **_ROUTED),
        frozenset({"KVCache"}),
        {"o_proj": 2.0, "unembed_out": 3.0},
    ),
    Architecture("glm4-moe-lite", _latent_attention("glm4_moe_lite", **_ROUTED), frozenset({"KVCache"})),
    Architecture(
        "minicpm3",
        _latent_attention(
            "minicpm3",
            dim_model_base=64,
            scale_depth=4.0,
            scale_emb=1.0,
            rope_scaling={
                "original_max_position_embeddings": 8192,
                "short_factor": [1.0] * 16,
                "long_factor": [1.0] * 16,
            },
        ),
        frozenset({"KVCache"}),
        {"o_proj": 2.0, "kv_b_proj": 4.0},
    ),
    Architecture(
        "deepseek-v32",
        _latent_attention("deepseek_v32", **_ROUTED, index_head_dim=32, index_n_heads=2, index_topk=256),
        frozenset({"CacheList", "KVCache"}),
        seed=1,
    ),
    Architecture(
        "gemma3",
        _attention(
            "gemma3_text",
            num_hidden_layers=_LAYERS,
            sliding_window=WINDOW_TOKENS,
            sliding_window_pattern=2,
            query_pre_attn_scalar=32,
            rope_local_base_freq=1000.0,
        ),
        frozenset({"KVCache", "RotatingKVCache"}),
    ),
    Architecture(
        "gpt-oss",
        _attention(
            "gpt_oss",
            num_hidden_layers=_LAYERS,
            num_local_experts=4,
            num_experts_per_tok=2,
            intermediate_size=32,
            sliding_window=WINDOW_TOKENS,
            layer_types=_LOCAL_THEN_GLOBAL,
        ),
        frozenset({"KVCache", "RotatingKVCache"}),
    ),
    Architecture(
        "gemma4",
        _attention(
            "gemma4_text",
            num_hidden_layers=_LAYERS,
            global_head_dim=32,
            vocab_size_per_layer_input=VOCABULARY,
            num_kv_shared_layers=2,
            hidden_size_per_layer_input=16,
            sliding_window=WINDOW_TOKENS,
            layer_types=_LOCAL_THEN_GLOBAL,
        ),
        frozenset({"KVCache", "RotatingKVCache"}),
        seed=1,
    ),
    Architecture(
        "llama4",
        {
            "model_type": "llama4",
            "text_config": _attention(
                "llama4_text",
                num_hidden_layers=_LAYERS,
                # On, as in Meta's own, mlx-lm fails on the first decoded token: it hands a batch's offsets to arange().
                attn_temperature_tuning=False,
                attention_bias=False,
                attention_chunk_size=256,
                interleave_moe_layer_step=2,
                intermediate_size=32,
                intermediate_size_mlp=128,
                num_experts_per_tok=1,
                num_local_experts=4,
                rope_scaling=None,
                use_qk_norm=False,
            ),
        },
        frozenset({"KVCache", "ChunkedKVCache"}),
        seed=2,
        batches=False,
    ),
    Architecture(
        "qwen3-next",
        _attention(
            "qwen3_next",
            num_hidden_layers=_LAYERS,
            linear_num_value_heads=4,
            linear_num_key_heads=2,
            linear_key_head_dim=16,
            linear_value_head_dim=16,
            linear_conv_kernel_dim=4,
            num_experts=4,
            num_experts_per_tok=2,
            decoder_sparse_step=1,
            shared_expert_intermediate_size=32,
            mlp_only_layers=[],
            moe_intermediate_size=32,
            partial_rotary_factor=0.5,
            norm_topk_prob=True,
            full_attention_interval=2,
        ),
        frozenset({"KVCache", "ArraysCache"}),
    ),
    Architecture(
        "mamba2",
        {
            "model_type": "mamba2",
            "num_heads": 4,
            "head_dim": 32,
            "hidden_size": 64,
            "intermediate_size": 128,
            "state_size": 16,
            "num_hidden_layers": _LAYERS,
            "layer_norm_epsilon": 1e-6,
            "conv_kernel": 4,
            "n_groups": 1,
            "use_bias": False,
            "use_conv_bias": True,
            "tie_word_embeddings": False,
            "time_step_limit": [0.0, 100.0],
            "time_step_rank": "auto",
        },
        frozenset({"ArraysCache"}),
        seed=1,
    ),
    Architecture(
        "falcon-h1",
        _attention(
            "falcon_h1",
            num_hidden_layers=2,
            mamba_chunk_size=128,
            mamba_d_head=16,
            mamba_d_ssm=64,
            mamba_d_state=16,
            mamba_n_heads=4,
        ),
        frozenset({"CacheList", "KVCache", "ArraysCache"}),
    ),
    Architecture(
        "nemotron-h",
        _attention(
            "nemotron_h",
            attention_bias=False,
            mamba_num_heads=4,
            mamba_head_dim=16,
            mamba_proj_bias=False,
            ssm_state_size=16,
            conv_kernel=4,
            n_groups=1,
            mlp_bias=False,
            layer_norm_epsilon=1e-6,
            use_bias=False,
            use_conv_bias=True,
            hybrid_override_pattern=list("M*-M*"),
            num_hidden_layers=5,
        ),
        frozenset({"KVCache", "ArraysCache"}),
    ),
)


def cache_classes(folder: Path) -> frozenset[str]:
    """Names of the cache classes that the model in `folder` keeps its state in."""
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    model, _ = load_model(folder, lazy=True)
    return frozenset(name for cache in make_prompt_cache(model) for name in _classes(cache))


def _classes(cache: Any) -> Iterator[str]:
    yield type(cache).__name__
    for inner in getattr(cache, "caches", ()):
        yield from _classes(inner)
