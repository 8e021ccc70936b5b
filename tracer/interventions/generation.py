"""Continue the prompt token by token from the key-value cache, with the edits kept on."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.interventions.edit_hooks import EditedRun
from tracer.model.model import Model


class Continuation:
    """How far to continue a prompt, and how to choose the tokens.

    ``temperature`` 0 takes the most likely token. Above 0 tokens are drawn by inverting their
    cumulative distribution at one random number per step, the same for every row, so that a
    difference between rows comes from their edits.
    """

    def __init__(self, model: Model, count: int, temperature: float, seed: int) -> None:
        self._end, self._temperature = model.bridge.tokenizer.eos_token_id, temperature
        generator = Random(seed)
        self._random = [generator.random() for _ in range(count)]

    def __len__(self) -> int:
        return len(self._random)

    def of(
        self,
        run: EditedRun,
        logits: Float[Tensor, "rows vocab"],
        cache: Any,
        report: Callable[[int], None],
    ) -> list[tuple[int, ...]]:
        """Return the tokens that each row of ``run`` continues with; a row ends after its EOS.

        ``logits`` and ``cache`` come from the pass over the prompt. ``report`` is called with the
        number of tokens generated so far after each of them; it may raise
        :class:`tracer.errors.Cancelled`.
        """
        generated: list[list[int]] = [[] for _ in range(len(run))]
        for step, number in enumerate(self._random):
            chosen = self._choose(logits, number)
            for row, token in zip(generated, chosen.tolist(), strict=True):
                if not row or row[-1] != self._end:
                    row.append(token)
            report(step + 1)
            ended = all(row[-1] == self._end for row in generated)
            if ended or step + 1 == len(self):
                break
            after, cache = run.step(chosen[:, None], run.n_prompt + step, cache)
            logits = after[:, -1].float()
        return [tuple(row) for row in generated]

    def _choose(self, logits: Float[Tensor, "rows vocab"], number: float) -> Int[Tensor, " rows"]:
        if not self._temperature:
            return logits.argmax(dim=-1)
        reached = (logits / self._temperature).softmax(-1).cumsum(-1)
        place = torch.searchsorted(reached, reached[:, -1:] * number, right=True)
        return place[:, 0].clamp(max=logits.shape[1] - 1)
