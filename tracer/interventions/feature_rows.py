"""Chosen features of a layer, with their encoder and decoder vectors kept on the device.

A run asks for the same few features in every pass, at every generated token. Their vectors are
looked up, or read from the transcoder's files, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.transcoders.transcoder import Transcoder

GATHERED_BYTES: Final = 2**26
"""Bytes of residual-stream vectors, one for each edit, that are laid out at a time."""

K = TypeVar("K")


class FeatureRows:
    """Features of one layer, numbered from 0 in the order in which they are given."""

    def __init__(
        self, transcoder: Transcoder, features: Iterable[int], device: torch.device
    ) -> None:
        self._transcoder = transcoder
        self.number = {feature: i for i, feature in enumerate(dict.fromkeys(features))}
        self._features = torch.tensor(list(self.number), dtype=torch.long, device=device)

    @property
    def at_once(self) -> int:
        """How many activations, or written vectors, to compute at a time."""
        return activations_at_once(self._transcoder)

    @cached_property
    def _encoder(self) -> Transcoder:
        """The chosen features as a small transcoder of which only the encoder is used."""
        transcoder, features = self._transcoder, self._features
        threshold = transcoder.threshold
        return replace(
            transcoder,
            W_enc=transcoder.encoder_vectors(features),
            b_enc=transcoder.b_enc[features],
            threshold=None if threshold is None else threshold[features],
        )

    @cached_property
    def _decoder(self) -> Float[Tensor, "features outputs d_model"]:
        return self._transcoder.decoder_vectors(self._features)

    def activations(
        self, x: Float[Tensor, "n d_model"], numbers: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Return the activation of feature ``numbers[i]`` on the row ``x[i]``."""
        if self._transcoder.k is not None:  # whether a feature is in the top k depends on all
            return self._transcoder.chosen_activations(x, self._features[numbers])
        return self._encoder.chosen_activations(x, numbers)

    def written(
        self, output: int, numbers: Int[Tensor, " n"], amounts: Float[Tensor, " n"]
    ) -> Float[Tensor, "n d_model"]:
        """Return the decoder vectors towards the ``output``-th layer written to, times amounts."""
        return self._decoder[numbers, output].float() * amounts[:, None]


def activations_at_once(transcoder: Transcoder) -> int:
    """Return how many activations to compute at a time so that they fit in a fixed memory."""
    width = transcoder.W_enc.shape[1]
    if transcoder.k is not None:
        width = max(width, transcoder.n_features)
    return max(1, GATHERED_BYTES // (4 * width))


def on_device(lists: Mapping[K, Sequence[int]], device: torch.device) -> dict[K, Int[Tensor, " n"]]:
    """Return the lists as tensors, all moved to the device in one transfer."""
    numbers = [number for of_one in lists.values() for number in of_one]
    flat = torch.tensor(numbers, dtype=torch.long, device="cpu").to(device)
    return dict(zip(lists, flat.split([len(of_one) for of_one in lists.values()]), strict=True))
