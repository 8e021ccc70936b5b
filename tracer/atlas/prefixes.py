"""What atlas's MLPs do on every distinct prefix of the training prompts.

A causal model's activations at a position depend on the prefix alone, so each is kept once. The
answers are left out: nothing is asked of the model there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tracer.atlas.corpus import Sentence
from tracer.model.bridge import Bridge

_BATCH = 1024


@dataclass(frozen=True)
class Prefixes:
    """Distinct prefixes, beginning-of-text token included, of two tokens and more."""

    prompts: list[tuple[int, ...]]
    """Distinct prompts as token ids."""
    positions: list[list[int]]
    """Per prompt, the number of the prefix that ends at position 1, 2, …"""
    first_use: list[tuple[int, int]]
    """Per prefix, the (prompt, position) it was first met at."""
    counts: Float[Tensor, " prefixes"]
    """How many training sentences begin with the prefix."""
    inputs: Float[Tensor, "layers prefixes d_model"]
    """What each MLP reads, after its norm, at the prefix's last token."""
    outputs: Float[Tensor, "layers prefixes d_model"]
    said: list[int]
    """The model's likeliest next token after each prefix."""

    def __len__(self) -> int:
        return len(self.first_use)


def collect_prefixes(bridge: Bridge, sentences: Sequence[Sentence]) -> Prefixes:
    """Run the prompts of all training sentences once and keep every distinct prefix."""
    bos = bridge.tokenizer.bos_token_id
    uses: dict[tuple[int, ...], int] = defaultdict(int)
    for sentence in sentences:
        if sentence.split == "train":
            ids = bridge.tokenizer(sentence.prompt, add_special_tokens=False)["input_ids"]
            uses[bos, *ids] += 1
    prompts = list(uses)
    reads = [f"blocks.{layer}.mlp.hook_in" for layer in range(bridge.n_layers)]
    writes = [f"blocks.{layer}.mlp.hook_out" for layer in range(bridge.n_layers)]
    number: dict[tuple[int, ...], int] = {}
    positions: list[list[int]] = [[] for _ in prompts]
    first_use: list[tuple[int, int]] = []
    counts: list[int] = []
    said: list[int] = []
    inputs, outputs = [], []
    for part in prompts_by_length(prompts):
        logits, seen = bridge.capture_batch(
            torch.tensor([prompts[place] for place in part]), reads + writes
        )
        guesses = logits.argmax(-1)
        new = []
        for row, place in enumerate(part):
            prompt = prompts[place]
            for stop in range(1, len(prompt)):
                prefix = prompt[: stop + 1]
                if prefix not in number:
                    number[prefix] = len(number)
                    first_use.append((place, stop))
                    counts.append(0)
                    said.append(int(guesses[row, stop]))
                    new.append((row, stop))
                counts[number[prefix]] += uses[prompt]
                positions[place].append(number[prefix])
        if new:
            rows, stops = torch.tensor(new).unbind(1)
            inputs.append(torch.stack([seen[name][rows, stops] for name in reads]))
            outputs.append(torch.stack([seen[name][rows, stops] for name in writes]))
    return Prefixes(
        prompts=prompts,
        positions=positions,
        first_use=first_use,
        counts=torch.tensor(counts, dtype=torch.float32),
        inputs=torch.cat(inputs, dim=1),
        outputs=torch.cat(outputs, dim=1),
        said=said,
    )


def prompts_by_length(prompts: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Batches of prompt numbers; the prompts of a batch are equally long."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        by_length[len(prompt)].append(place)
    return [
        places[start : start + _BATCH]
        for _, places in sorted(by_length.items())
        for start in range(0, len(places), _BATCH)
    ]
