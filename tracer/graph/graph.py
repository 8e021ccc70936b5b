"""`AttributionGraph`: the direct effects between the nodes of one prompt. Immutable, no torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save as safetensors_bytes

from tracer.files import atomic_write
from tracer.graph.generic import GenericNode, QkResults
from tracer.graph.graph_file import ARRAYS, GENERIC_VERSION, read_graph_file, with_checksum
from tracer.graph.graph_file import FORMAT_VERSION as FORMAT_VERSION
from tracer.graph.influence import GraphInfluence, graph_influence
from tracer.graph.nodes import FloatArray, IntArray, NodeIndex, target_ids
from tracer.graph.order import node_depths
from tracer.graph.stored_generic import generic_header, generic_nodes, qk_results
from tracer.types import NodeId, Target, TokenProbability

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AttributionGraph:
    """The direct effects between the nodes of one prompt, in the local replacement model.

    Rows are nodes in the order of :class:`NodeIndex`. The non-zero effects are CSR rows of
    *targets*: row ``t`` has the effects ``weights[indptr[t]:indptr[t + 1]]`` of the nodes
    ``sources[indptr[t]:indptr[t + 1]]``, which ascend and are in lower layers. A weight is what the
    source adds to the target's pre-activation (for a logit: to the logit minus the mean logit).
    The rows of errors and tokens are empty: they have no inputs. Effects of and on generic nodes,
    which only published graphs have, may also stay within a layer.

    >>> graph = AttributionGraph(
    ...     prompt="hot", tokens=("<bos>", "hot"), token_ids=(1, 52), n_layers=1,
    ...     features=np.array([[0, 1, 417]]), activations=np.array([2.0]),
    ...     targets=(Target(" cold", (90,), 0.9),),
    ...     indptr=np.array([0, 1, 1, 1, 1, 1, 3]), sources=np.array([4, 0, 4]),
    ...     weights=np.array([2.5, 1.5, -0.5]), next_tokens=(), n_active_features=1,
    ... )
    >>> for source, target, weight in zip(graph.sources, graph.rows, graph.weights):
    ...     print(graph.index.node(source), graph.index.node(target), weight)
    token--1-1-52 feature-0-1-417 2.5
    feature-0-1-417 logit-1-1-90 1.5
    token--1-1-52 logit-1-1-90 -0.5
    """

    prompt: str
    tokens: tuple[str, ...]
    """The strings of the tokens; the first is the beginning-of-text token."""
    token_ids: tuple[int, ...]
    n_layers: int
    features: IntArray
    """``(n_features, 3)`` int32: layer, position, feature of every expanded feature; ascending."""
    activations: FloatArray
    """``(n_features,)`` float32; NaN where the file of another tool does not have it."""
    targets: tuple[Target, ...]
    indptr: IntArray
    """``(n_nodes + 1,)`` int64: where each row starts in ``sources`` and ``weights``."""
    sources: IntArray
    """``(n_edges,)`` int32 or int64: the row of each edge's source."""
    weights: FloatArray
    """``(n_edges,)`` float32."""
    next_tokens: tuple[TokenProbability, ...]
    """The model's most likely next tokens (at most 20), whether targets or not."""
    n_active_features: int
    """How many features are active; more than ``n_features`` when ``max_features`` limits them."""
    dropped_weight: float = 0.0
    """The largest share of its absolute weight that a row left out, 0 to 1: not 0 only for prompts
    so long that rows keep only their strongest entries."""
    rounding_error: float = 0.0
    """How far the edges are from float32 ones, as a share of their absolute weight in a sample of
    rows; 0 for a graph that was computed in float32, NaN if it was not measured."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """The names and fingerprints of model and transcoders, and every option that affects the
    numbers."""
    generic: tuple[GenericNode, ...] = ()
    """Nodes that another tool computed and this library does not, ascending by layer, position,
    kind and index."""
    qk: QkResults = field(default_factory=QkResults)
    """What made attention features attend where they do, where another tool traced that."""

    def __post_init__(self) -> None:
        for array in (self.features, self.activations, self.indptr, self.sources, self.weights):
            array.setflags(write=False)

    @cached_property
    def index(self) -> NodeIndex:
        """The order of the nodes."""
        targets = target_ids(target.token_ids for target in self.targets)
        return NodeIndex(self.features, self.n_layers, self.token_ids, targets, self.generic)

    @property
    def n_nodes(self) -> int:
        return len(self.index)

    @property
    def n_edges(self) -> int:
        return len(self.weights)

    @cached_property
    def rows(self) -> IntArray:
        """``(n_edges,)`` the row of each edge's target, parallel to ``sources``."""
        return np.repeat(np.arange(self.n_nodes), np.diff(self.indptr))

    @cached_property
    def target_weights(self) -> FloatArray:
        """``(n_nodes,)`` the influence that starts at each node: the probability of a target."""
        weights = np.zeros(self.n_nodes)
        weights[self.index.logit_rows] = [target.probability for target in self.targets]
        return weights

    @cached_property
    def depths(self) -> IntArray | None:
        """``(n_nodes,)`` a topological order; None where the layers are one already."""
        return node_depths(self.n_nodes, self.rows, self.sources) if self.generic else None

    @cached_property
    def influence(self) -> GraphInfluence:
        """The influence of every node on the targets, before pruning."""
        return graph_influence(
            self.index, self.rows, self.sources, self.weights, self.target_weights, self.depths
        )

    def to_dense(self) -> torch.Tensor:
        """Return ``(n_nodes, n_nodes)`` float32: rows are targets, columns are sources.

        >>> import tracer
        >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
        >>> graph.to_dense().shape == (graph.n_nodes, graph.n_nodes)
        True
        """
        import torch

        dense = np.zeros((self.n_nodes, self.n_nodes), np.float32)
        dense[self.rows, self.sources] = self.weights
        return torch.from_numpy(dense)

    def to_bytes(self) -> bytes:
        """Return the graph as a safetensors file, with everything but the arrays in its header.

        >>> import tracer
        >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
        >>> from safetensors.numpy import load
        >>> sorted(load(graph.to_bytes()))
        ['activations', 'features', 'indptr', 'sources', 'weights']
        """
        header = {
            "format_version": GENERIC_VERSION if self.generic else FORMAT_VERSION,
            "prompt": self.prompt,
            "tokens": self.tokens,
            "token_ids": self.token_ids,
            "n_layers": self.n_layers,
            "targets": [asdict(target) for target in self.targets],
            "next_tokens": self.next_tokens,
            "n_active_features": self.n_active_features,
            "dropped_weight": self.dropped_weight,
            "rounding_error": None if math.isnan(self.rounding_error) else self.rounding_error,
            "provenance": dict(self.provenance),
            **generic_header(self.generic, self.qk),
        }
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}
        text = with_checksum(json.dumps(header), arrays)
        return bytes(safetensors_bytes(arrays, {"graph": text}))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the graph to ``path``; a failed write leaves the old file.

        Raises ``OSError`` when the folder cannot be written.

        >>> import tempfile, tracer
        >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
        >>> path = Path(tempfile.mkdtemp(), "hot.safetensors")
        >>> graph.save(path)
        >>> tracer.load_graph(path).prompt
        'The opposite of hot is'
        """
        atomic_write(Path(path), self.to_bytes())


def load_graph(path: str | os.PathLike[str]) -> AttributionGraph:
    """Read a graph that :meth:`AttributionGraph.save` wrote.

    Raises :class:`tracer.errors.GraphFileError` when the file cannot be read, has another format
    version, or is not a valid graph: its arrays are checked, not only its header.

    >>> import tempfile, tracer
    >>> path = Path(tempfile.mkdtemp(), "hot.safetensors")
    >>> tracer.trace(tracer.load("atlas"), "The opposite of hot is").save(path)
    >>> graph = load_graph(path)
    >>> graph.n_edges == len(graph.weights)
    True
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
        rounding_error=math.nan if header.rounding_error is None else header.rounding_error,
        provenance=header.provenance,
        generic=generic_nodes(header.generic),
        qk=qk_results(header.qk),
        **arrays,
    )
