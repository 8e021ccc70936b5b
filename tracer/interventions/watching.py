"""Read the activations of chosen features while a pass runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tracer.interventions.feature_rows import FeatureRows, on_device
from tracer.model.model import Model
from tracer.types import NodeId


class Watch:
    """The features to watch: given nodes, or with ``nodes=None`` every active feature.

    Only the activations are kept, not the residual stream they are computed from.
    """

    def __init__(self, model: Model, nodes: Sequence[NodeId] | None) -> None:
        self._model, self._all = model, nodes is None
        self._nodes: dict[int, list[NodeId]] = {}
        for node in dict.fromkeys(nodes or ()):
            self._nodes.setdefault(node.layer, []).append(node)
        self._features = {
            layer: FeatureRows(
                model.transcoders[layer], (node.index for node in of_layer), model.device
            )
            for layer, of_layer in self._nodes.items()
        }
        lists: dict[tuple[str, int], list[int]] = {}
        for layer, of_layer in self._nodes.items():
            number = self._features[layer].number
            lists["position", layer] = [node.position for node in of_layer]
            lists["number", layer] = [number[node.index] for node in of_layer]
        self._index = on_device(lists, model.device)
        self._chosen: dict[int, Float[Tensor, "rows nodes"]] = {}
        self._active: list[tuple[Tensor, Tensor]] = []

    @property
    def layers(self) -> Sequence[int]:
        """Layers whose transcoder inputs must be passed to :meth:`read`."""
        return range(self._model.n_layers) if self._all else sorted(self._nodes)

    def read(self, layer: int, x: Float[Tensor, "rows pos d_model"]) -> None:
        """Compute the activations of ``layer`` from what its transcoder reads."""
        if self._all:
            self._read_all(layer, x)
            return
        positions, numbers = self._index["position", layer], self._index["number", layer]
        features, n_rows = self._features[layer], len(x)
        values = torch.empty(n_rows, len(positions), device=x.device)
        step = max(1, features.at_once // n_rows)
        for start in range(0, len(positions), step):
            part = slice(start, start + step)
            inputs = x[:, positions[part]].flatten(0, 1)
            active = features.activations(inputs, numbers[part].repeat(n_rows))
            values[:, part] = active.view(n_rows, -1)
        self._chosen[layer] = torch.where(positions < self._model.first_position, 0, values)

    def _read_all(self, layer: int, x: Float[Tensor, "rows pos d_model"]) -> None:
        for row, inputs in enumerate(x):
            values = self._model.transcoders[layer].activations(inputs)
            values[: self._model.first_position] = 0
            entries = values.nonzero()
            place = [entries.new_full((len(entries), 1), number) for number in (row, layer)]
            self._active.append((torch.cat([*place, entries], 1), values[entries.unbind(1)]))

    def take(self, n_rows: int) -> list[dict[NodeId, float]]:
        """Return the activations of the latest pass, row by row, and forget them."""
        found: list[dict[NodeId, float]] = [{} for _ in range(n_rows)]
        if self._active:
            entries, values = (torch.cat(parts) for parts in zip(*self._active, strict=True))
            for (row, *place), value in zip(entries.tolist(), values.tolist(), strict=True):
                found[row][NodeId("feature", *place)] = value
        elif self._chosen:
            nodes = [node for layer in self._chosen for node in self._nodes[layer]]
            table = torch.cat(list(self._chosen.values()), dim=1).tolist()
            for activations, row in zip(found, table, strict=True):
                activations.update(zip(nodes, row, strict=True))
        self._active, self._chosen = [], {}
        return found
