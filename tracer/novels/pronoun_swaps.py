"""Do the features of “woman” and “man” decide about “she” and “he”? Exchange them and see.

Two prompts of a pair differ in one noun. The features at the noun are changed to what they are on
the other prompt, and beyond it; the answer is the likelier of the two pronouns.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tracer.errors import InterventionError
from tracer.interventions.run import run_scenarios
from tracer.interventions.scenario import Edit, Scenario
from tracer.model.model import Model
from tracer.types import FeatureId

N_PAIRS: Final = 50
STRENGTH: Final = 2.0
"""At 1 the features get the other prompt's activations; at 2 they go as far again beyond, as in
:mod:`tracer.atlas.state_swaps`."""
NOUNS: Final = (
    ("The woman", "The man"), ("The girl", "The boy"), ("The old lady", "The old gentleman"),
    ("The queen", "The king"), ("The princess", "The prince"), ("My mother", "My father"),
    ("My sister", "My brother"), ("My aunt", "My uncle"), ("His daughter", "His son"),
    ("Her daughter", "Her son"), ("The countess", "The count"), ("The widow", "The widower"),
    ("Mary", "John"), ("Elizabeth", "William"), ("Jane", "Tom"), ("Mrs. Smith", "Mr. Smith"),
    ("The young woman", "The young man"), ("The mother", "The father"),
    ("The poor woman", "The poor man"),
)  # fmt: skip
SENTENCES: Final = (
    "{} was very tired, and", "{} smiled, for", "{} went home because", "{} looked up, and then",
    "{} sat down, and when", "{} did not answer, but", "{} was so happy that",
    "{} opened the door, and as",
)  # fmt: skip
_PRONOUNS: Final = (" she", " he")
_SEED: Final = 50


@dataclass(frozen=True)
class PronounSwaps:
    """How often the answer changed, of ``pairs`` pairs whose prompts were both answered right."""

    pairs: int
    candidates: int
    at_noun: float
    """Share with the features at the noun exchanged."""
    at_noun_and_end: float
    """With those at the last token too."""
    control: float
    """With the same changes, at both places, made to random other features."""


@dataclass(frozen=True)
class _Prompt:
    text: str
    ids: tuple[int, ...]
    active: Tensor
    """``(layers, pos, features)`` activations."""
    preference: float
    """Logit of “she” minus that of “he”."""


def pronoun_swaps(model: Model, n_pairs: int = N_PAIRS) -> PronounSwaps:
    """Exchange features in ``n_pairs`` pairs of prompts, fewer if the model answers fewer right."""
    rng = random.Random(_SEED)
    candidates = [(s.format(f), s.format(m)) for s in SENTENCES for f, m in NOUNS]
    rng.shuffle(candidates)
    hits = [0, 0, 0]
    tested = tried = 0
    she, he = (_token(model, word) for word in _PRONOUNS)
    for texts in candidates:
        if tested == n_pairs:
            break
        female, male = (_run(model, text, she, he) for text in texts)
        if len(female.ids) != len(male.ids):
            continue  # positions do not correspond
        tried += 1
        if female.preference <= 0 or male.preference >= 0:
            continue
        tested += 1
        source, target = (female, male) if rng.random() < 0.5 else (male, female)
        noun = [
            i for i, pair in enumerate(zip(source.ids, target.ids, strict=True)) if len({*pair}) > 1
        ]
        both = [*noun, len(source.ids) - 1]
        scenarios = [
            Scenario("noun", tuple(swap_edits(source.active, target.active, noun))),
            Scenario("noun and end", tuple(swap_edits(source.active, target.active, both))),
            Scenario("control", tuple(control_edits(source.active, target.active, both, rng))),
        ]
        run = run_scenarios(model, source.text, scenarios)
        for number, outcome in enumerate(run.outcomes):
            if isinstance(outcome, InterventionError):
                raise outcome
            changed = float(outcome.logits[she] - outcome.logits[he])
            hits[number] += changed * source.preference < 0
    shares = [hit / max(tested, 1) for hit in hits]
    return PronounSwaps(tested, tried, *shares)


def swap_edits(source: Tensor, target: Tensor, positions: Sequence[int]) -> Iterator[Edit]:
    """Yield edits that move all features at ``positions`` to the target prompt and beyond it."""
    change = STRENGTH * (target - source)
    for layer, position, feature in _nonzero(change, positions):
        yield _add(layer, position, feature, float(change[layer, position, feature]))


def control_edits(
    source: Tensor, target: Tensor, positions: Sequence[int], rng: random.Random
) -> Iterator[Edit]:
    """Yield edits with the same changes, each made to a random feature of the same layer that is
    active on neither prompt, as long as there are enough of these."""
    change = STRENGTH * (target - source)
    idle = (source == 0) & (target == 0)
    others: dict[tuple[int, int], list[int]] = {}
    for layer, position, feature in _nonzero(change, positions):
        if (layer, position) not in others:
            unused = idle[layer, position].nonzero()[:, 0].tolist()
            rng.shuffle(unused)
            others[layer, position] = unused
        if others[layer, position]:
            other = others[layer, position].pop()
            yield _add(layer, position, other, float(change[layer, position, feature]))


def _nonzero(change: Tensor, positions: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    for position in positions:
        for layer, feature in change[:, position].nonzero().tolist():
            yield layer, position, feature


def _add(layer: int, position: int, feature: int, value: float) -> Edit:
    return Edit(FeatureId(layer, feature), position, position + 1, "add", value)


def _token(model: Model, word: str) -> int:
    (token,) = model.bridge.tokenizer(word, add_special_tokens=False)["input_ids"]
    return int(token)


@torch.no_grad()
def _run(model: Model, text: str, she: int, he: int) -> _Prompt:
    ids = model.encode(text)
    names = [model.read_hook(layer) for layer in range(model.n_layers)]
    row = torch.tensor([ids], device=model.device)
    logits, inputs = model.bridge.capture_batch(row, names)
    active = torch.stack(
        [model.transcoders[i].activations(inputs[name][0]).cpu() for i, name in enumerate(names)]
    )
    active[:, : model.first_position] = 0
    last = logits[0, -1].float()
    return _Prompt(text, ids, active, float(last[she] - last[he]))
