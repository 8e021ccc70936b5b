"""Does one supernode carry the language of atlas's answer?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tracer.atlas.corpus import OPPOSITE
from tracer.atlas.facts import LANGUAGES, Opposites, opposites
from tracer.attribution.trace import trace
from tracer.features.cards import FeatureIndex, Label
from tracer.graph.pruning import prune
from tracer.interventions.run import Outcome, run_scenarios
from tracer.interventions.scenario import Edit, Scenario, edit_all
from tracer.model.model import Model
from tracer.types import FeatureId, NodeId

REMOVED_SCALE: Final = -1.0
"""Multiple of its activation that the removed supernode is set to."""
EVERY: Final = 3
"""One pair of opposites in so many is tested."""


@dataclass(frozen=True)
class LanguageSwaps:
    """How often swapping one supernode moves the answer to another language.

    The supernode is all features labelled "say a … word" in the pruned graph. It is exchanged for
    that of the same question in the other language.
    """

    language_swap: float
    """Among English, Spanish and German."""
    language_swap_out_of_french: float
    language_swap_into_french: float


@dataclass(frozen=True)
class _Question:
    """The opposite of a word in one language, with the activations of its graph's supernode."""

    prompt: str
    answer: str
    supernode: dict[NodeId, float]


def language_swaps(model: Model, every: int = EVERY) -> LanguageSwaps:
    """Set the prompt's own supernode to -1x, and add the other one with its own activations.

    One pair of opposites in ``every`` is tested.
    """
    labels = FeatureIndex.open(model.source.transcoder_folder).labels
    hits: dict[tuple[str, str], list[bool]] = {}
    for pair in opposites()[::every]:
        questions = {
            language: _question(model, labels, number, pair)
            for number, language in enumerate(LANGUAGES)
        }
        for language, question in questions.items():
            others = [other for other in LANGUAGES if other != language]
            run = run_scenarios(
                model,
                question.prompt,
                [_exchange(question, questions[other], other) for other in others],
            )
            for other, outcome in zip(others, run.outcomes, strict=True):
                token = outcome.next_tokens[0].token if isinstance(outcome, Outcome) else None
                hits.setdefault((language, other), []).append(
                    token == f" {questions[other].answer}"
                )
    rest = [hit for names, part in hits.items() if "French" not in names for hit in part]
    out = [hit for (source, _), part in hits.items() if source == "French" for hit in part]
    into = [hit for (_, target), part in hits.items() if target == "French" for hit in part]
    return LanguageSwaps(*(sum(part) / len(part) for part in (rest, out, into)))


def _question(
    model: Model, labels: Mapping[FeatureId, Label], language: int, pair: Opposites
) -> _Question:
    prompt = OPPOSITE[language][0].format(word=pair.left[language])
    pruned = prune(trace(model, prompt))
    graph, text = pruned.graph, f"say a {LANGUAGES[language]} word"
    supernode = {
        node: float(graph.activations[graph.index.row(node)])
        for node in pruned.nodes
        if node.kind == "feature" and node.feature in labels and labels[node.feature].text == text
    }
    return _Question(prompt, pair.right[language], supernode)


def _exchange(question: _Question, other: _Question, name: str) -> Scenario:
    """Return the exchange of the supernodes; the questions have the same number of tokens."""
    removed = edit_all(question.supernode, "scale", REMOVED_SCALE)
    added = [Edit.at(node, "set", value) for node, value in other.supernode.items()]
    return Scenario(name, (*removed, *added))
