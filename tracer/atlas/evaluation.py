"""Measure what atlas can do and what its circuits are: the claims of the documentation.

Everything runs on the shipped weights through the public API, on questions of the test splits,
which neither training nor tuning used.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import torch
from torch import Tensor

from tracer.atlas.activations import activations, answers, batches
from tracer.atlas.circuit_checks import EVERY, LanguageSwaps, language_swaps
from tracer.atlas.corpus import OPPOSITE, Sentence, sentences
from tracer.atlas.facts import LANGUAGES, city_splits, opposites
from tracer.atlas.state_swaps import N_PAIRS, position_of, state_carriers, swap_success
from tracer.interventions.gallery_checks import Faithfulness, gallery_faithfulness
from tracer.model.model import Model
from tracer.training.replacement import replacement_hooks

Report = Callable[[str], None]
N_SAMPLED: Final = 400
"""Test questions on which the replacement of the MLPs is measured."""


@dataclass(frozen=True)
class Evaluation:
    """All figures for one transcoder set. Accuracies are the model's own, the same for both."""

    two_hop: float
    two_hop_cities: int
    two_hop_capital: float
    opposites: float
    opposites_questions: int
    sums: float
    sums_questions: int
    active_per_token: float
    unexplained: float
    replacement_keeps_top: float
    swap: float
    swap_control: float
    shared_same_concept: float
    shared_other_concept: float
    languages: LanguageSwaps
    faithfulness: Faithfulness


LABELS: Final[Mapping[str, str]] = {
    "two_hop": "two-hop questions answered",
    "two_hop_cities": "  their cities, none of them in a trained two-hop sentence",
    "two_hop_capital": "  of these, those about a state's capital",
    "opposites": "opposites answered, held out in one of four languages",
    "opposites_questions": "  number of opposites",
    "sums": "sums of two numbers up to 99 answered",
    "sums_questions": "  number of sums",
    "active_per_token": "active features per token, all layers",
    "unexplained": "unexplained variance of the MLP outputs",
    "replacement_keeps_top": "top token kept when features replace all MLPs",
    "swap": "state features swapped: the other capital is the answer",
    "swap_control": "  control: random features, same values and positions",
    "shared_same_concept": "feature overlap of one concept in two languages",
    "shared_other_concept": "  of two concepts in one language",
    "language_swap": "language supernode swapped: answer in that language",
    "language_swap_out_of_french": "  out of French",
    "language_swap_into_french": "  into French",
    "faithfulness_median": "faithfulness, median over the gallery's prompts",
    "faithfulness_lowest": "  lowest",
}
"""What each figure is, for the printed table. Shares are between 0 and 1."""


def accuracy(model: Model, questions: Sequence[Sentence]) -> float:
    """Return the share of prompts whose most likely next token is the answer."""
    predicted = answers(model, [question.prompt for question in questions])
    correct = [
        token == model.token_id(f" {question.answer}")
        for token, question in zip(predicted, questions, strict=True)
    ]
    return sum(correct) / len(correct)


def test_questions() -> dict[str, list[Sentence]]:
    """Return the questions of the test split, by family."""
    questions: dict[str, list[Sentence]] = {"two-hop": [], "opposite": [], "sum": []}
    for sentence in sentences():
        if sentence.split == "test":
            questions[sentence.family].append(sentence)
    questions["opposite"] = [s for s in questions["opposite"] if "across" not in s.tag]
    return questions


def replacement_keeps_top(model: Model, prompts: Sequence[str]) -> float:
    """Return the share of prompts whose top token stays when features replace all MLPs."""
    original, replaced = answers(model, prompts), answers(model, prompts, replacement_hooks(model))
    return sum(a == b for a, b in zip(original, replaced, strict=True)) / len(prompts)


@torch.no_grad()
def sparsity(model: Model, prompts: Sequence[str]) -> tuple[float, float]:
    """Return the active features per token, and the unexplained share of MLP output variance.

    Both are over all layers: the number of features is summed, the share is averaged.
    """
    layers, first = range(model.n_layers), model.first_position
    reads = [model.read_hook(layer) for layer in layers]
    writes = [model.write_hook(layer) for layer in layers]
    n_active, n_tokens = 0, 0
    residual = torch.zeros(model.n_layers)
    outputs: list[Tensor] = []
    for _, ids in batches(model, prompts):
        _, seen = model.bridge.capture_batch(ids, [*reads, *writes])
        inputs = [seen[name][:, first:].flatten(0, 1) for name in reads]
        output = torch.stack([seen[name][:, first:].flatten(0, 1) for name in writes])
        active = [model.transcoders[i].activations(inputs[i]) for i in layers]
        rebuilt = model.transcoders.reconstructions(active, inputs)
        n_active += sum(int((a > 0).sum()) for a in active)
        n_tokens += output.shape[1]
        residual += (output - rebuilt).pow(2).sum((1, 2))
        outputs.append(output)
    every = torch.cat(outputs, 1)
    total = (every - every.mean(1, keepdim=True)).pow(2).sum((1, 2))
    return n_active / n_tokens, float((residual / total).mean())


def shared_features(model: Model) -> tuple[float, float]:
    """Return the overlap of the active features at a word whose opposite is asked for.

    It is the mean Jaccard index of one concept in two languages, and of two concepts in one
    language. The first is larger if features stand for concepts rather than for words.
    """
    active: dict[tuple[int, int], Tensor] = {}
    for language in range(len(LANGUAGES)):
        template = OPPOSITE[language][0]
        prompts = [template.format(word=pair.left[language]) for pair in opposites()]
        at_word = activations(model, prompts, (position_of("{word}", template),))
        for number, values in enumerate(at_word):
            active[number, language] = values.flatten() > 0
    same, other = [], []
    for number, language in active:
        for further in range(language + 1, len(LANGUAGES)):
            same.append(_jaccard(active[number, language], active[number, further]))
        following = ((number + 1) % len(opposites()), language)
        other.append(_jaccard(active[number, language], active[following]))
    return sum(same) / len(same), sum(other) / len(other)


def _jaccard(left: Tensor, right: Tensor) -> float:
    return int((left & right).sum()) / max(1, int((left | right).sum()))


def evaluate(model: Model, report: Report, thin: int = 1) -> Evaluation:
    """Measure everything; about ten seconds per set on two CPU cores.

    With ``thin``, figures that are measured on samples use so many times fewer of them. Accuracies
    and faithfulness are always measured on all questions and prompts.
    """
    questions = test_questions()
    two_hop, opposite, sums = questions["two-hop"], questions["opposite"], questions["sum"]
    capital = [s for s in two_hop if s.tag == "state-capital"]
    cities = {city for city, split in city_splits().items() if split == "test"}
    sampled = random.Random(3).sample([*two_hop, *opposite, *sums], N_SAMPLED // thin)
    prompts = [question.prompt for question in sampled]
    report("replacing the MLPs by features")
    active, unexplained = sparsity(model, prompts)
    keeps_top = replacement_keeps_top(model, prompts)
    report("swapping states and languages, checking graphs")
    swap, control = swap_success(model, state_carriers(model), N_PAIRS // thin)
    same, other = shared_features(model)
    return Evaluation(
        two_hop=accuracy(model, two_hop),
        two_hop_cities=len(cities),
        two_hop_capital=accuracy(model, capital),
        opposites=accuracy(model, opposite),
        opposites_questions=len(opposite),
        sums=accuracy(model, sums),
        sums_questions=len(sums),
        active_per_token=active,
        unexplained=unexplained,
        replacement_keeps_top=keeps_top,
        swap=swap,
        swap_control=control,
        shared_same_concept=same,
        shared_other_concept=other,
        languages=language_swaps(model, EVERY * thin),
        faithfulness=gallery_faithfulness(model),
    )


def as_dict(evaluation: Evaluation) -> dict[str, float]:
    """Return all figures by name, without nesting."""
    figures = asdict(evaluation)
    languages, faithfulness = figures.pop("languages"), figures.pop("faithfulness")
    by_title = faithfulness.pop("by_title")
    by_prompt = {f"faithfulness: {title}": value for title, value in by_title.items()}
    return {**figures, **languages, **by_prompt, **faithfulness}


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return the figures of several sets as a table of text, one column per set.

    >>> print(table({"per-layer": {"sums": 1.0, "sums_questions": 1049}}))
    measured on questions held out of training                     per-layer
    sums of two numbers up to 99 answered                                  1
      number of sums                                                    1049
    """
    first = next(iter(results.values()))
    rows = ["measured on questions held out of training".ljust(58)]
    rows[0] += "".join(f"{name:>14}" for name in results)
    for key in first:
        values = "".join(f"{result[key]:>14.4g}" for result in results.values())
        rows.append(f"{LABELS.get(key, key):58}" + values)
    return "\n".join(rows)
