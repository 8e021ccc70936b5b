"""Do atlas's graphs tell the truth, and does one group of features carry the language?"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tracer.atlas.corpus import OPPOSITE
from tracer.atlas.facts import LANGUAGES, Opposites, opposites
from tracer.atlas.gallery import gallery
from tracer.attribution.trace import trace
from tracer.features.cards import FeatureIndex, Label
from tracer.graph.pruning import prune
from tracer.interventions.faithfulness import EffectCheck, check_target, switched_off
from tracer.interventions.run import Outcome, run_scenarios
from tracer.interventions.scenario import Edit, Scenario, edit_all
from tracer.model.model import Model
from tracer.types import FeatureId, NodeId

STRONGEST: Final = 30
"""Features of a pruned graph that are switched off, the most influential ones."""
AWAY: Final = -1.0
"""Times its activation: what the supernode that is to go is set to."""
_EVERY: Final = 3
"""Of the word pairs, one in so many is asked about."""


@dataclass(frozen=True)
class TruthFigures:
    """Pearson's r of predicted and measured effects on the answer's logit, over a prompt's
    features, with attention patterns and norm scales held."""

    truth: dict[str, float]
    """Of the first prompt of each group of the gallery, by its title."""
    truth_gallery_median: float
    truth_gallery_lowest: float


def truth_of(model: Model, prompt: str, limit: int = STRONGEST) -> EffectCheck:
    """Switch the strongest features of the pruned graph off, one at a time."""
    pruned = prune(trace(model, prompt))
    index = pruned.graph.index
    nodes = [node for node in pruned.nodes if node.kind == "feature"]
    nodes.sort(key=lambda node: -pruned.influence[index.row(node)])
    groups = {str(node): [node] for node in nodes[:limit]}
    run = run_scenarios(model, prompt, switched_off(groups))
    return check_target(pruned.graph, groups, run, 0)


def truth_figures(model: Model) -> TruthFigures:
    """Of every prompt of the gallery."""
    found = {entry: truth_of(model, entry.prompt).correlation for entry in gallery()}
    first = {entry.group: entry for entry in reversed(gallery())}
    return TruthFigures(
        truth={entry.title: found[entry] for entry in found if first[entry.group] == entry},
        truth_gallery_median=statistics.median(found.values()),
        truth_gallery_lowest=min(found.values()),
    )


@dataclass(frozen=True)
class LanguageSwaps:
    """How often exchanging one supernode, the features labelled "say a … word" in the pruned graph,
    for that of the same question in another language moves the answer to that language."""

    language_swap: float
    """Among English, Spanish and German."""
    language_swap_out_of_french: float
    language_swap_into_french: float


@dataclass(frozen=True)
class _Question:
    """The opposite of a word in one language: its graph's supernode, with activations."""

    prompt: str
    answer: str
    supernode: dict[NodeId, float]


def language_swaps(model: Model) -> LanguageSwaps:
    """The prompt's own supernode is set to -1x, the other takes the values of its own prompt."""
    labels = FeatureIndex.open(model.source.transcoder_folder).labels
    hits: dict[tuple[str, str], list[bool]] = {}
    for pair in opposites()[::_EVERY]:
        asked = {
            language: _question(model, labels, number, pair)
            for number, language in enumerate(LANGUAGES)
        }
        for theirs, question in asked.items():
            others = [language for language in LANGUAGES if language != theirs]
            run = run_scenarios(
                model,
                question.prompt,
                [_exchange(question, asked[other], other) for other in others],
            )
            for other, outcome in zip(others, run.outcomes, strict=True):
                said = outcome.next_tokens[0].token if isinstance(outcome, Outcome) else None
                hits.setdefault((theirs, other), []).append(said == f" {asked[other].answer}")
    rest = [hit for pair, found in hits.items() if "French" not in pair for hit in found]
    out = [hit for (theirs, _), found in hits.items() if theirs == "French" for hit in found]
    into = [hit for (_, other), found in hits.items() if other == "French" for hit in found]
    return LanguageSwaps(*(sum(part) / len(part) for part in (rest, out, into)))


def _question(
    model: Model, labels: Mapping[FeatureId, Label], language: int, pair: Opposites
) -> _Question:
    prompt = OPPOSITE[language][0].format(word=pair.left[language])
    pruned = prune(trace(model, prompt))
    graph, wanted = pruned.graph, f"say a {LANGUAGES[language]} word"
    supernode = {
        node: float(graph.activations[graph.index.row(node)])
        for node in pruned.nodes
        if node.kind == "feature" and node.feature in labels and labels[node.feature].text == wanted
    }
    return _Question(prompt, pair.right[language], supernode)


def _exchange(question: _Question, other: _Question, name: str) -> Scenario:
    """Places count from the end; the four questions have as many tokens."""
    away = edit_all(question.supernode, "scale", AWAY)
    put_in = [Edit.at(node, "set", value) for node, value in other.supernode.items()]
    return Scenario(name, (*away, *put_in))
