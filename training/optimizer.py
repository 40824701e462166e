"""Muon for stacked matrices: momentum, then orthogonalization by a Newton-Schulz iteration.

After Keller Jordan's description of Muon (2024); the quintic's coefficients are his. Written here from the description.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def orthogonalize(stack: Tensor, steps: int = 5) -> Tensor:
    """Replace each matrix of a [layers, rows, columns] stack by its nearly orthogonal factor, in bf16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = stack.bfloat16()
    wide = x.shape[-2] > x.shape[-1]
    if wide:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if wide else x


class Muon:
    """Muon with Nesterov momentum and decoupled weight decay."""

    def __init__(self, matrices: list[nn.Parameter], *, momentum: float = 0.95, decay: float = 0.01) -> None:
        self.matrices, self.momentum, self.decay = matrices, momentum, decay
        self.buffers = [torch.zeros_like(matrix) for matrix in matrices]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update at the given learning rate; clears the gradients."""
        for matrix, buffer in zip(self.matrices, self.buffers, strict=True):
            if matrix.grad is None:
                raise ValueError("a matrix has no gradient")
            buffer.lerp_(matrix.grad, 1 - self.momentum)
            update = orthogonalize(matrix.grad.lerp(buffer, self.momentum))
            scale = max(1.0, matrix.shape[-2] / matrix.shape[-1]) ** 0.5
            matrix.mul_(1 - rate * self.decay)
            matrix.add_(update.to(matrix.dtype), alpha=-rate * scale)
            matrix.grad = None
