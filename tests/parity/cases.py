"""The cases of the golden files: small models with transcoder sets, and one prompt.

This module needs neither this project nor the peer, because both environments import it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors.torch import load_file

IDS = [1, 5, 11, 6, 34, 15]
MAX_FEATURES, RANK_EVERY = 40, 8
LIMITS = {"whole": None, "some": MAX_FEATURES}
"""Graphs of a case: of all features, and of the most influential ones, ranked in steps."""
MODES = {
    "free": {"freeze_attention": False},
    "frozen": {"freeze_attention": True},
    "constrained": {"constrained_layers": range(3)},
    "constrained_some": {"constrained_layers": range(1, 3)},
}
"""Options of the interventions; both libraries use the same names."""
N_GENERATED = 4
REACHES = ("prompt", "on")
"""Where an edit applies while text is generated: at its position of the prompt only, or from this
position onward, new tokens included."""


@dataclass(frozen=True)
class Case:
    """A model family and a kind of transcoder set."""

    architecture: str
    kind: Literal["per-layer", "cross-layer"]
    read: str = "mlp.hook_in"
    write: str = "mlp.hook_out"
    activation: Literal["relu", "jumprelu", "topk"] = "jumprelu"
    skip: bool = False

    @property
    def name(self) -> str:
        return f"{self.architecture}-{self.kind}"

    @property
    def model_kind(self) -> str:
        """The name of the kind in ``config.yaml``."""
        return "transcoder_set" if self.kind == "per-layer" else "cross_layer_transcoder"


RESIDUAL, NORMALIZED, ADDED = "hook_resid_mid", "ln2.hook_normalized", "hook_mlp_out"
CASES = {
    case.name: case
    for case in (
        Case("llama", "per-layer"),
        Case("llama", "cross-layer"),
        Case("gpt2", "per-layer", RESIDUAL, ADDED, "relu", skip=True),
        Case("gpt2", "cross-layer", activation="relu"),
        Case("gemma2", "per-layer", NORMALIZED, ADDED),
        Case("gemma2", "cross-layer", RESIDUAL, ADDED),
        Case("gemma3", "per-layer", NORMALIZED, ADDED, skip=True),
        Case("gemma3", "cross-layer", NORMALIZED, ADDED, "relu", skip=True),
        Case("mistral", "per-layer", RESIDUAL, activation="topk"),
        Case("mistral", "cross-layer", RESIDUAL, activation="relu"),
        Case("qwen2", "per-layer", activation="topk", skip=True),
        Case("qwen3", "per-layer", activation="relu"),
        Case("qwen3", "cross-layer"),
        Case("olmo2", "per-layer", RESIDUAL),
        Case("neox", "per-layer", NORMALIZED, activation="relu", skip=True),
        Case("gpt_oss", "per-layer", activation="topk"),
        Case("gpt_oss", "cross-layer"),
    )
}


def checksum(folders: Iterable[Path]) -> str:
    """Return a hex digest of every tensor saved in the folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            for name, tensor in sorted(load_file(path).items()):
                digest.update(f"{path.name}\0{name}\0{tuple(tensor.shape)}\0".encode())
                digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
