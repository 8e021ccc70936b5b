"""Do atlas's graphs tell the truth, and does one group of features carry the language?"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tracer.atlas.corpus import OPPOSITE
from tracer.atlas.facts import LANGUAGES, opposites
from tracer.atlas.gallery import gallery
from tracer.attribution import trace
from tracer.interventions import Outcome, run_scenarios
from tracer.models import Model
from tracer.pruning import prune
from tracer.scenarios import Edit, Operation, Scenario
from tracer.truth import EffectCheck, check_target, switched_off
from tracer.types import FeatureId

STRONGEST: Final = 30
"""Features of a pruned graph that are switched off, the most influential ones."""
SOURCE_SCALE, TARGET_SCALE = -1.0, 2.0
"""As for states: carriers of the prompt's language are set to -1x, the other's to 2x."""
OFTEN, SELECTIVE, FAINT = 0.8, 0.5, 0.02
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
    """How often exchanging the language's features at the last token translates the answer."""

    language_swap: float
    """Among English, Spanish and German: share of the opposites then said in the other language."""
    language_swap_into_french: float
    language_swap_out_of_french: float


@torch.no_grad()
def _last_activations(model: Model) -> Tensor:
    """``(languages, pairs, layers, features)`` at the last token of "The opposite of … is"."""
    names = [model.read_hook(layer) for layer in range(model.n_layers)]
    found = []
    for language in range(len(LANGUAGES)):
        for pair in opposites():
            prompt = OPPOSITE[language][0].format(word=pair.left[language])
            _, seen = model.bridge.capture(
                torch.tensor(model.encode(prompt), device=model.device), names
            )
            layers = zip(model.transcoders.layers, names, strict=True)
            found.append(torch.stack([t.activations(seen[name][-1:])[0] for t, name in layers]))
    return torch.stack(found).reshape(len(LANGUAGES), -1, *found[0].shape)


def language_swaps(model: Model) -> LanguageSwaps:
    """Exchange one group of features, those that fire at the last token in one language whatever
    the word, for another language's."""
    active = _last_activations(model)
    mean = active.mean(1)
    others = (mean.sum(0, keepdim=True) - mean) / (len(LANGUAGES) - 1)
    carries = (active > 0).float().mean(1) > OFTEN
    carries &= mean - others > SELECTIVE * mean.amax(0, keepdim=True)
    carries &= mean > FAINT * mean.amax()
    hits: dict[tuple[str, str], list[bool]] = {}
    for source, theirs in enumerate(LANGUAGES):
        asked = opposites()[::_EVERY]
        for target, other in enumerate(LANGUAGES):
            if source == target:
                continue
            scenario = Scenario(
                f"{theirs} to {other}",
                (
                    *_at_last(carries[source], "scale", None, SOURCE_SCALE),
                    *_at_last(carries[target], "set", mean[target], TARGET_SCALE),
                ),
            )
            for pair in asked:
                prompt = OPPOSITE[source][0].format(word=pair.left[source])
                [outcome] = run_scenarios(model, prompt, [scenario]).outcomes
                said = outcome.next_tokens[0].token if isinstance(outcome, Outcome) else None
                hits.setdefault((theirs, other), []).append(said == f" {pair.right[target]}")
    into = [hit for (_, other), found in hits.items() if other == "French" for hit in found]
    out = [hit for (theirs, _), found in hits.items() if theirs == "French" for hit in found]
    rest = [hit for pair, found in hits.items() if "French" not in pair for hit in found]
    return LanguageSwaps(*(sum(part) / len(part) for part in (rest, into, out)))


def _at_last(
    carriers: Tensor, operation: Operation, typical: Tensor | None, factor: float
) -> list[Edit]:
    """Edits at the last token: to a multiple of the present, or of a typical activation."""
    edits = []
    for layer, feature in carriers.nonzero().tolist():
        value = factor * (1.0 if typical is None else float(typical[layer, feature]))
        edits.append(Edit(FeatureId(layer, feature), -1, None, operation, value))
    return edits
