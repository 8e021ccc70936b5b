"""The inputs and outputs of atlas's MLPs at every distinct prefix of the training prompts.

A causal model's activations at a position depend only on the prefix that ends there, so each prefix
is kept once. Answers are left out: the model predicts nothing after them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
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
    """Distinct prefixes of at least two tokens, including the beginning-of-text token."""

    prompts: list[tuple[int, ...]]
    """Distinct prompts as token ids."""
    positions: list[list[int]]
    """For each prompt, the number of the prefix that ends at position 1, 2, …"""
    first_use: list[tuple[int, int]]
    """For each prefix, the (prompt, position) of its first occurrence."""
    counts: Float[Tensor, " prefixes"]
    """Number of training sentences that begin with the prefix."""
    inputs: Float[Tensor, "layers prefixes d_model"]
    """Input of each MLP (after its norm) at the prefix's last token."""
    outputs: Float[Tensor, "layers prefixes d_model"]
    predicted: list[int]
    """The model's most likely next token after each prefix, as an id."""

    def __len__(self) -> int:
        return len(self.first_use)


def collect_prefixes(bridge: Bridge, sentences: Sequence[Sentence]) -> Prefixes:
    """Run the prompts of all training sentences and keep every distinct prefix once."""
    bos = bridge.tokenizer.bos_token_id
    texts = [sentence.prompt for sentence in sentences if sentence.split == "train"]
    encoded = bridge.tokenizer(texts, add_special_tokens=False)["input_ids"]
    uses = Counter((bos, *ids) for ids in encoded)
    prompts = list(uses)
    reads = [f"blocks.{layer}.mlp.hook_in" for layer in range(bridge.n_layers)]
    writes = [f"blocks.{layer}.mlp.hook_out" for layer in range(bridge.n_layers)]
    number: dict[tuple[int, ...], int] = {}
    positions: list[list[int]] = [[] for _ in prompts]
    first_use: list[tuple[int, int]] = []
    counts: list[int] = []
    predicted: list[int] = []
    inputs, outputs = [], []
    for part in prompts_by_length(prompts):
        logits, seen = bridge.capture_batch(
            torch.tensor([prompts[place] for place in part]), reads + writes
        )
        likeliest = logits.argmax(-1).tolist()
        new = []
        for row, place in enumerate(part):
            prompt = prompts[place]
            for stop in range(1, len(prompt)):
                prefix = prompt[: stop + 1]
                if prefix not in number:
                    number[prefix] = len(number)
                    first_use.append((place, stop))
                    counts.append(0)
                    predicted.append(likeliest[row][stop])
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
        predicted=predicted,
    )


def prompts_by_length(prompts: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Return the numbers of the prompts in batches of prompts of one length."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        by_length[len(prompt)].append(place)
    return [
        places[start : start + _BATCH]
        for _, places in sorted(by_length.items())
        for start in range(0, len(places), _BATCH)
    ]
