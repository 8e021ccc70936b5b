"""Kinds of transcoder sets that attention is explained with, and how close sums must be."""

from __future__ import annotations

import numpy as np

SETS = {
    "per-layer": {"kind": "transcoder_set", "write": "mlp.hook_out", "activation": "jumprelu"},
    "cross-layer": {
        "kind": "cross_layer_transcoder",
        "write": "hook_mlp_out",
        "activation": "relu",
    },
    "top-k with skip": {
        "kind": "transcoder_set",
        "write": "mlp.hook_out",
        "activation": "topk",
        "skip": True,
    },
}


def relative(sums: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference as a share of the sum of magnitudes along the last axis."""
    size = np.abs(expected).sum(axis=-1).max()
    return float(np.abs(sums - expected).max() / size)
