"""Muon in float32: momentum whose matrix is orthogonalised before each step (Jordan et al., 2024).

``torch.optim.Muon`` orthogonalises in bfloat16, which processors without bfloat16 units emulate: on
such a machine one of its steps takes longer than the forward and backward pass together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
_ITERATIONS: Final = 5
_EPSILON: Final = 1e-7


class Muon(torch.optim.Optimizer):
    """For matrices only; embeddings and gains belong to another optimizer."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(list(parameters), defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closures here
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(matrix)
                average = state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalise(matrix.grad.lerp(average, group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                scale = math.sqrt(max(1, matrix.shape[0] / matrix.shape[1]))
                matrix.add_(update, alpha=-group["lr"] * scale)


def orthogonalise(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Return a matrix with the same singular vectors and singular values near 1.

    Five steps of a quintic Newton-Schulz iteration: the values end between about 0.7 and 1.2.

    >>> values = torch.linalg.svdvals(orthogonalise(torch.randn(8, 20)))
    >>> bool((values > 0.3).all() and (values < 1.5).all())
    True
    """
    is_wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if is_wide else matrix.T
    x = x / (x.norm() + _EPSILON)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x if is_wide else x.T
    return result
