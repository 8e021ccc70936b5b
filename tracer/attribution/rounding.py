"""How far a graph is from the one that float32 would have given, measured on a sample of its rows.

The reference computes the sampled rows again in float32 without TF32. If the forward pass was not
exact either (bfloat16, or TF32), the reference runs its own.
"""

from __future__ import annotations

import logging
from typing import Final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tracer.attribution.backward import FrozenBackward
from tracer.attribution.edge_rows import RANKING_EPSILON
from tracer.attribution.frozen import FrozenPass, frozen_pass
from tracer.attribution.memory import SAMPLED_ROWS
from tracer.attribution.targets import ChosenTargets
from tracer.graph.nodes import IntArray
from tracer.model.failures import forget_frames, is_out_of_memory
from tracer.model.memory import release_cached_memory

_log = logging.getLogger(__name__)
_SAMPLED_TARGETS: Final = 2


def rounding_error(
    backward: FrozenBackward,
    chosen: ChosenTargets,
    expanded: Int[Tensor, " expanded"],
    sample_size: int,
) -> float:
    """Return the share of the sampled rows' absolute weight that differs from the reference.

    ``expanded`` are the graph's features; at most ``sample_size`` rows are computed at a time.
    Sources that are active in only one of the two forward passes are left out.

    0 for a graph in float32. NaN if memory does not suffice for the reference: a finished graph is
    worth more than the measurement.
    """
    model = backward.model
    if backward.dtype == torch.float32 and model.forward_is_exact:
        return 0.0
    backward.release_buffers()
    backward.sources.keep(False)
    if sample_size:
        try:
            return _measured(backward, chosen, expanded, sample_size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            forget_frames(error)
        release_cached_memory(model.device)
    _log.warning(
        "the rounding error of this graph was not measured: %s has no memory left for the float32 "
        "reference",
        model.device,
    )
    return float("nan")


def _measured(
    backward: FrozenBackward, chosen: ChosenTargets, expanded: Tensor, sample_size: int
) -> float:
    model, frozen = backward.model, backward.frozen
    with model.bridge.exact():
        exact = frozen if model.forward_is_exact else frozen_pass(model, frozen.token_ids)
        reference = FrozenBackward(model, exact, reference=True)
    columns = _common_columns(frozen, exact)
    candidates = expanded[torch.isin(expanded, columns[0])]
    count = min(SAMPLED_ROWS - _SAMPLED_TARGETS, len(candidates))
    places = torch.linspace(0, len(candidates) - 1, count).long()
    sample = frozen.host_features[candidates[places]]
    own, common = (part.to(model.device) for part in columns)
    moved = torch.zeros(2, device=model.device)

    def compare(rows: Tensor, expected: Tensor) -> None:
        rows, expected = rows[:, own], expected[:, common]
        moved.add_(torch.stack([(rows - expected).abs().sum(), expected.abs().sum()]))

    few = slice(0, min(_SAMPLED_TARGETS, sample_size, len(chosen.targets)))
    compare(chosen.rows(backward, few), chosen.rows(reference, few))
    for start in range(0, count, sample_size):
        features = sample[start : start + sample_size]
        compare(backward.on_features(features), reference.on_features(features))
    return float(moved[0] / moved[1].clamp(min=RANKING_EPSILON))


def _common_columns(
    frozen: FrozenPass, exact: FrozenPass
) -> tuple[Int[Tensor, " common"], Int[Tensor, " common"]]:
    """Return the columns of the sources that both passes have, in the order of either."""
    left, right = (_numbered(one.host_features) for one in (frozen, exact))
    _, own, common = np.intersect1d(left, right, assume_unique=True, return_indices=True)
    n_inner = len(frozen.errors) * frozen.n_positions + frozen.n_positions
    inner = np.arange(n_inner)  # errors and tokens
    columns = np.concatenate([own, inner + len(left)]), np.concatenate([common, inner + len(right)])
    return torch.from_numpy(columns[0]), torch.from_numpy(columns[1])


def _numbered(features: Int[Tensor, "active 3"]) -> IntArray:
    """Return one number for every layer, position and feature."""
    layers, positions, indices = features.unbind(dim=1)
    return ((layers << 52) | (positions << 32) | indices).numpy()
