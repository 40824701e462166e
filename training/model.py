"""The Qwen3 architecture in PyTorch, laid out for fast training of a very small model.

All layers' weights of one kind are one stacked parameter, so that the optimizer works on few tensors; the parts outside
attention run over a flat [tokens, hidden] layout, so that one compiled graph serves every sequence length. Computes in
bf16 from fp32 weights; with `float32=True`, for checks, in fp32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the model, by the names of Qwen3's config.json."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    max_position_embeddings: int = 8192

    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            **asdict(self),
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "sliding_window": None,
            "use_sliding_window": False,
            "tie_word_embeddings": True,
            "use_cache": True,
            "dtype": "bfloat16",
        }


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y = x.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    return (y * weight).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on [tokens, heads, head_dim], first half paired with second half."""
    half = x.shape[-1] // 2
    a, b = x[..., :half].float(), x[..., half:].float()
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


def _before(
    x: Tensor,
    norm: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    qn: Tensor,
    kn: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    y = _norm(x, norm, eps)
    dim = qn.shape[0]
    queries = functional.linear(y, q.to(y.dtype)).unflatten(-1, (-1, dim))
    keys = functional.linear(y, k.to(y.dtype)).unflatten(-1, (-1, dim))
    values = functional.linear(y, v.to(y.dtype)).unflatten(-1, (-1, dim))
    return _rotate(_norm(queries, qn, eps), cos, sin), _rotate(_norm(keys, kn, eps), cos, sin), values


def _after(
    x: Tensor, mixed: Tensor, o: Tensor, norm: Tensor, gate: Tensor, up: Tensor, down: Tensor, eps: float
) -> Tensor:
    x = x + functional.linear(mixed, o.to(x.dtype))
    y = _norm(x, norm, eps)
    return x + functional.linear(
        functional.silu(functional.linear(y, gate.to(y.dtype))) * functional.linear(y, up.to(y.dtype)), down.to(y.dtype)
    )


def _loss(x: Tensor, norm: Tensor, embed: Tensor, targets: Tensor, weights: Tensor, eps: float) -> Tensor:
    """Weighted cross entropy: sum over tokens of weight times loss."""
    logits = functional.linear(_norm(x, norm, eps), embed.to(x.dtype)).float()
    return (functional.cross_entropy(logits, targets, reduction="none") * weights).sum()


class Notes(nn.Module):
    """The model. `forward` gives the final hidden states; `logits` and `loss` go on from there."""

    def __init__(self, shape: Shape, *, float32: bool = False) -> None:
        super().__init__()
        self.shape, self.dtype = shape, torch.float32 if float32 else torch.bfloat16
        layers, hidden, inner, dim = (
            shape.num_hidden_layers,
            shape.hidden_size,
            shape.intermediate_size,
            shape.head_dim,
        )
        wide, narrow = shape.num_attention_heads * dim, shape.num_key_value_heads * dim

        def matrix(*size: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(size) * scale * 0.5 * size[-1] ** -0.5)

        deep = (2 * layers) ** -0.5
        self.embed = nn.Parameter(torch.randn(shape.vocab_size, hidden) * 0.02)
        self.q, self.k, self.v = (
            matrix(layers, wide, hidden),
            matrix(layers, narrow, hidden),
            matrix(layers, narrow, hidden),
        )
        self.o = matrix(layers, hidden, wide, scale=deep)
        self.gate, self.up = matrix(layers, inner, hidden), matrix(layers, inner, hidden)
        self.down = matrix(layers, hidden, inner, scale=deep)
        self.norm1, self.norm2 = nn.Parameter(torch.ones(layers, hidden)), nn.Parameter(torch.ones(layers, hidden))
        self.qnorm, self.knorm = (
            nn.Parameter(torch.full((layers, dim), 1.2)),
            nn.Parameter(torch.full((layers, dim), 1.2)),
        )
        self.norm = nn.Parameter(torch.ones(hidden))
        self._before, self._after, self._loss = _before, _after, _loss

    def compile_parts(self) -> None:
        """Compile the parts outside attention, for a fixed number of tokens."""
        self._before = torch.compile(_before, dynamic=False)
        self._after = torch.compile(_after, dynamic=False)
        self._loss = torch.compile(_loss, dynamic=False)

    def matrices(self) -> list[nn.Parameter]:
        """The stacked weight matrices, those that Muon optimizes."""
        return [self.q, self.k, self.v, self.o, self.gate, self.up, self.down]

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states [batch * time, hidden] before the last norm, for ids [batch, time]."""
        batch, time = ids.shape
        shape, eps = self.shape, self.shape.rms_norm_eps
        half = shape.head_dim // 2
        rates = shape.rope_theta ** -(torch.arange(half, device=ids.device, dtype=torch.float32) / half)
        angles = torch.arange(time, device=ids.device, dtype=torch.float32)[:, None] * rates
        angles = angles.repeat(batch, 1)[:, None]
        cos, sin = angles.cos(), angles.sin()
        x = functional.embedding(ids.reshape(-1), self.embed).to(self.dtype)
        repeat = shape.num_attention_heads // shape.num_key_value_heads
        for i in range(shape.num_hidden_layers):
            q, k, v = self._before(
                x, self.norm1[i], self.q[i], self.k[i], self.v[i], self.qnorm[i], self.knorm[i], cos, sin, eps
            )
            k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
            q, k, v = (t.unflatten(0, (batch, time)).transpose(1, 2) for t in (q, k, v))
            mixed = (
                functional.scaled_dot_product_attention(q, k, v, is_causal=True)
                .transpose(1, 2)
                .reshape(batch * time, -1)
            )
            x = self._after(x, mixed, self.o[i], self.norm2[i], self.gate[i], self.up[i], self.down[i], eps)
        return x

    def loss(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Sum of weighted token losses; targets and weights are flat."""
        return self._loss(hidden, self.norm, self.embed, targets, weights, self.shape.rms_norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits in fp32 for any rows of the hidden states."""
        return functional.linear(_norm(hidden, self.norm, self.shape.rms_norm_eps), self.embed.to(hidden.dtype)).float()

    def named_tensors(self) -> dict[str, Tensor]:
        """The weights by the names of a Qwen3 checkpoint."""
        out = {"model.embed_tokens.weight": self.embed, "model.norm.weight": self.norm}
        names = {
            "self_attn.q_proj": self.q,
            "self_attn.k_proj": self.k,
            "self_attn.v_proj": self.v,
            "self_attn.o_proj": self.o,
            "self_attn.q_norm": self.qnorm,
            "self_attn.k_norm": self.knorm,
            "mlp.gate_proj": self.gate,
            "mlp.up_proj": self.up,
            "mlp.down_proj": self.down,
            "input_layernorm": self.norm1,
            "post_attention_layernorm": self.norm2,
        }
        for name, stacked in names.items():
            for i in range(self.shape.num_hidden_layers):
                out[f"model.layers.{i}.{name}.weight"] = stacked[i]
        return {name: tensor.detach() for name, tensor in out.items()}
