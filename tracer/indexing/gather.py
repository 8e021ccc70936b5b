"""Run batches of a corpus and gather the statistics of every layer's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from tracer.errors import ModelError
from tracer.indexing.plan import TokenBatch
from tracer.indexing.statistics import BatchTokens, LayerStatistics, window_width
from tracer.model.model import Model

Arrays = Mapping[str, NDArray[np.generic]]


class Gatherer:
    """A model and the statistics of its features over the batches that it has run."""

    def __init__(
        self,
        model: Model,
        promoted: Sequence[Int[Tensor, "features shown"]],
        n_tags: int,
        context: int,
    ) -> None:
        """``promoted`` has, for each layer, the tokens that its features promote most."""
        # Apple GPUs lack some of the operations that the statistics need.
        self._device = torch.device("cpu") if model.device.type == "mps" else model.device
        self._model, self._n_tags, self._width = model, n_tags, window_width(context)
        self.layers = [self._empty(layer, tokens) for layer, tokens in enumerate(promoted)]
        self.occurrences = torch.zeros(3, model.vocab_size, dtype=torch.int64, device=self._device)
        """``(3, vocab)`` counted tokens that are each token: in even windows, in odd ones, and
        those after which the model predicts it. Windows are numbered through the corpus."""

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the statistics, by name, and by layer if they are of one."""
        return {
            f"{number}.{name}": tensor
            for number, layer in enumerate(self.layers)
            for name, tensor in layer.tensors()
        } | {"occurrences": self.occurrences}

    def end_shard(self) -> None:
        """Add the sums of the shard to those of the shards before it."""
        for layer in self.layers:
            layer.end_shard()

    def merge(self, shard: Arrays) -> None:
        """Add the next shard: what :meth:`tensors` returned after it, before it was ended."""
        for number, layer in enumerate(self.layers):
            other = self._empty(number, layer.promoted)
            for name, tensor in other.tensors():
                if name != "promoted":
                    tensor.copy_(torch.tensor(shard[f"{number}.{name}"]))
            layer.merge(other)
        self.occurrences += torch.tensor(shard["occurrences"]).to(self._device)

    @torch.no_grad()
    def add(self, batch: TokenBatch) -> None:
        """Run a batch and add it to the statistics.

        Raises :class:`ModelError` if the model produces NaN or Inf.
        """
        device = self._model.device
        mask = torch.from_numpy(batch.real).to(device)
        names = [self._model.read_hook(layer) for layer in range(self._model.n_layers)]
        ids = torch.from_numpy(batch.ids).to(device)
        logits, inputs = self._model.bridge.capture_batch(ids, names)
        best = logits.max(-1)
        del logits
        if not torch.isfinite(best.values[mask]).all():
            raise ModelError(
                f"{self._model.source.name} produces NaN or Inf logits: its weights are damaged, "
                "or the data type is too narrow; try dtype float32"
            )
        tokens = self._tokens(batch, best.indices[mask])
        self._count_tokens(batch, tokens)
        for layer, (name, statistics) in enumerate(zip(names, self.layers, strict=True)):
            active = self._model.transcoders[layer].activations(inputs.pop(name)[mask])
            statistics.add(active.to(self._device), tokens)

    def _empty(self, layer: int, promoted: Int[Tensor, "features shown"]) -> LayerStatistics:
        device = self._device
        return LayerStatistics(layer, promoted.to(device), self._n_tags, self._width, device)

    def _count_tokens(self, batch: TokenBatch, tokens: BatchTokens) -> None:
        """Count how often each token occurs, in even and odd windows, and is predicted."""
        lengths = batch.real.sum(1)
        odd = ((batch.first_window + np.arange(len(lengths))) % 2).repeat(lengths)
        n_vocab = self.occurrences.shape[1]
        occurs = torch.from_numpy(odd * n_vocab).to(self._device) + tokens.tokens
        predicted = 2 * n_vocab + tokens.predicted
        places = torch.cat([occurs[tokens.counted], predicted[tokens.counted]])
        self.occurrences.view(-1).index_add_(0, places, torch.ones_like(places))

    def _tokens(self, batch: TokenBatch, predicted: Tensor) -> BatchTokens:
        lengths = batch.real.sum(1)
        stops = lengths.cumsum()
        starts = stops - lengths

        def to_device(array: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

        positions = np.arange(batch.n_tokens) - starts.repeat(lengths)
        return BatchTokens(
            first=batch.first,
            tokens=to_device(batch.ids[batch.real]),
            predicted=predicted.to(self._device),
            starts=to_device(starts.repeat(lengths)),
            stops=to_device(stops.repeat(lengths)),
            has_features=to_device(positions >= self._model.first_position),
            counted=to_device(batch.counted),
            tag_rows=to_device(batch.tag_rows),
            tag_numbers=to_device(batch.tag_numbers),
        )
