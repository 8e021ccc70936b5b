"""What the model goes on to say, with edits kept on, token by token from its cache."""

from __future__ import annotations

from random import Random

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.interventions.edit_hooks import EditedRun
from tracer.model.model import Model


class Continuation:
    """How to go on after a prompt: how far, and how tokens are chosen.

    ``temperature`` 0 takes the likeliest token. Above it tokens are drawn by inverting their
    cumulative distribution at one random number per step, the same for every row.
    """

    def __init__(
        self, model: Model, prompt: Int[Tensor, " pos"], count: int, temperature: float, seed: int
    ) -> None:
        self._model, self._prompt, self._temperature = model, prompt, temperature
        generator = Random(seed)
        self._random = [generator.random() for _ in range(count)]

    def of(self, run: EditedRun) -> list[tuple[int, ...]]:
        """The tokens that each row of ``run`` goes on with; a row ends after an end of text."""
        n_rows, n_pos = len(run), len(self._prompt)
        ids, cache = self._prompt.expand(n_rows, -1), None
        said: list[list[int]] = [[] for _ in range(n_rows)]
        end = self._model.bridge.tokenizer.eos_token_id
        for step, number in enumerate(self._random):
            offset = 0 if step == 0 else n_pos + step - 1
            logits, cache = run.step(ids, offset, cache)
            chosen = self._choose(logits[:, -1].float(), number)
            for row, token in zip(said, chosen.tolist(), strict=True):
                if not row or row[-1] != end:
                    row.append(token)
            if all(row[-1] == end for row in said):
                break
            ids = chosen[:, None]
        return [tuple(row) for row in said]

    def _choose(self, logits: Float[Tensor, "rows vocab"], number: float) -> Int[Tensor, " rows"]:
        if not self._temperature:
            return logits.argmax(dim=-1)
        shares = (logits / self._temperature).softmax(-1).cumsum(-1)
        place = torch.searchsorted(shares, shares[:, -1:] * number, right=True)
        return place[:, 0].clamp(max=logits.shape[1] - 1)
