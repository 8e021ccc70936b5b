"""Atlas's transcoders: its distinct prefixes as training examples, and the recipe of both sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from tracer.atlas.prefixes import Prefixes
from tracer.training.recipe import Recipe
from tracer.training.source import Batch, Moments

_BATCHES_PER_SHARD: Final = 250


@dataclass(frozen=True)
class SetRecipe:
    """The options of one of atlas's sets.

    They are in the stamp of the build, so names and order are fixed.
    """

    cross_layer: bool
    n_features: int = 1024
    steps: int = 3500
    batch_size: int = 2048
    rate: float = 2e-3
    active_first: float = 160
    active_last: float = 40
    anneal_until: float = 0.6
    seed: int = 5

    def recipe(self) -> Recipe:
        """Return the recipe in the form that the trainer takes."""
        return Recipe(
            kind="cross-layer" if self.cross_layer else "per-layer",
            features=self.n_features,
            l0=self.active_last,
            l0_first=self.active_first,
            anneal_until=self.anneal_until,
            tokens=self.steps * self.batch_size,
            batch_tokens=self.batch_size,
            rate=self.rate,
            seed=self.seed,
        )


class PrefixSource:
    """Batches drawn from distinct prefixes: frequent ones count more, but not by their number."""

    def __init__(self, prefixes: Prefixes, recipe: Recipe) -> None:
        self._prefixes, self._recipe = prefixes, recipe
        self._weights = prefixes.counts.sqrt()

    def moments(self) -> Moments:
        """Measure all prefixes, each counted once."""
        return Moments.of(Batch(self._prefixes.inputs, self._prefixes.outputs))

    def shard(self, number: int) -> Iterator[Batch]:
        """Yield 250 batches, drawn with replacement."""
        generator = torch.Generator().manual_seed(self._recipe.seed * 2**20 + number)
        for _ in range(_BATCHES_PER_SHARD):
            rows = torch.multinomial(
                self._weights, self._recipe.batch_tokens, True, generator=generator
            )
            yield Batch(self._prefixes.inputs[:, rows], self._prefixes.outputs[:, rows])
