"""`AttributionGraph`: who directly affects whom on one prompt. Immutable data; no torch needed.

`NodeIndex` alone knows the order of the nodes, features | errors (layer-major) | tokens | logits,
so that no other module ever adds an offset.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save as safetensors_bytes

from tracer.files import atomic_write
from tracer.graph.graph_file import ARRAYS, read_graph_file
from tracer.graph.graph_file import FORMAT_VERSION as FORMAT_VERSION
from tracer.graph.influence import WholeInfluence, whole_influence
from tracer.graph.nodes import FloatArray, IntArray, NodeIndex, target_ids
from tracer.types import NodeId, Target, TokenProbability

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AttributionGraph:
    """Direct effects between the nodes of one prompt, in the frozen (linear) replacement model.

    The effect of a source on a target is stored once per non-zero pair, as CSR rows of *targets*:
    row ``t`` holds ``sources[indptr[t]:indptr[t + 1]]`` with their ``weights``. A weight is the
    change of the target's pre-activation (for a logit: of the logit minus the mean logit) that the
    source causes. Errors and tokens have no inputs, so their rows are empty.
    """

    prompt: str
    tokens: tuple[str, ...]
    """Token strings, ``tokens[0]`` is the beginning-of-text token; as long as ``token_ids``."""
    token_ids: tuple[int, ...]
    n_layers: int
    features: IntArray
    """``(n_features, 3)`` int32: layer, position, feature of every expanded feature, ascending."""
    activations: FloatArray
    """``(n_features,)`` float32."""
    targets: tuple[Target, ...]
    indptr: IntArray
    sources: IntArray
    weights: FloatArray
    next_tokens: tuple[TokenProbability, ...]
    """The model's likeliest next tokens (at most 20), whether targets or not."""
    n_active_features: int
    """How many features were active; more than ``n_features`` when ``max_features`` cut."""
    dropped_weight: float = 0.0
    """Largest share of its absolute weight that any row left out: 0 unless the prompt was so long
    that rows keep only their strongest entries."""
    rounding_error: float = 0.0
    """Share of their absolute weight by which edges differ from the float32 ones, measured on a
    sample of rows; 0 when the graph was computed in float32."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Model and transcoder names and fingerprints, and every option that shaped the numbers."""

    def __post_init__(self) -> None:
        for array in (self.features, self.activations, self.indptr, self.sources, self.weights):
            array.setflags(write=False)

    @cached_property
    def index(self) -> NodeIndex:
        targets = target_ids(target.token_ids for target in self.targets)
        return NodeIndex(self.features, self.n_layers, self.token_ids, targets)

    @property
    def n_nodes(self) -> int:
        return len(self.index)

    @property
    def n_edges(self) -> int:
        return len(self.weights)

    @cached_property
    def rows(self) -> IntArray:
        """``(n_edges,)`` target row of every stored edge, beside ``sources``."""
        return np.repeat(np.arange(self.n_nodes), np.diff(self.indptr))

    @cached_property
    def target_weights(self) -> FloatArray:
        """``(n_nodes,)`` probability of each logit node, zero elsewhere: where influence starts."""
        weights = np.zeros(self.n_nodes)
        weights[self.index.logit_rows] = [target.probability for target in self.targets]
        return weights

    @cached_property
    def influence(self) -> WholeInfluence:
        """How much of the targets flows through every node of the whole graph."""
        return whole_influence(
            self.index, self.rows, self.sources, self.weights, self.target_weights
        )

    def to_dense(self) -> torch.Tensor:
        """``(n_nodes, n_nodes)`` float32, rows = targets, columns = sources."""
        import torch

        dense = np.zeros((self.n_nodes, self.n_nodes), np.float32)
        dense[self.rows, self.sources] = self.weights
        return torch.from_numpy(dense)

    def to_bytes(self) -> bytes:
        """The graph as one safetensors file whose header carries the rest as JSON."""
        header = {
            "format_version": FORMAT_VERSION,
            "prompt": self.prompt,
            "tokens": self.tokens,
            "token_ids": self.token_ids,
            "n_layers": self.n_layers,
            "targets": [asdict(target) for target in self.targets],
            "next_tokens": self.next_tokens,
            "n_active_features": self.n_active_features,
            "dropped_weight": self.dropped_weight,
            "rounding_error": self.rounding_error,
            "provenance": dict(self.provenance),
        }
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}
        return bytes(safetensors_bytes(arrays, {"graph": json.dumps(header)}))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the graph to ``path``; the file appears whole or not at all."""
        atomic_write(Path(path), self.to_bytes())


def load_graph(path: str | os.PathLike[str]) -> AttributionGraph:
    """Read what :meth:`AttributionGraph.save` wrote.

    Raises :class:`GraphFileError` when the file cannot be read, is damaged, or has another format
    version: whatever is in the file, either it is a valid graph or this is raised.
    """
    header, arrays = read_graph_file(path)
    return AttributionGraph(
        prompt=header.prompt,
        tokens=header.tokens,
        token_ids=header.token_ids,
        n_layers=header.n_layers,
        targets=tuple(
            Target(
                stored.label,
                stored.token_ids,
                stored.probability,
                None if stored.feature is None else NodeId(*stored.feature),
            )
            for stored in header.targets
        ),
        next_tokens=tuple(TokenProbability(*stored) for stored in header.next_tokens),
        n_active_features=header.n_active_features,
        dropped_weight=header.dropped_weight,
        rounding_error=header.rounding_error,
        provenance=header.provenance,
        **arrays,
    )
