"""Are the graphs of an embedded model's gallery faithful?"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Final

from tracer.attribution.trace import trace
from tracer.catalog.embedded import ATLAS, gallery
from tracer.graph.pruning import prune
from tracer.interventions.faithfulness import EffectCheck, check_target, switched_off
from tracer.interventions.run import run_scenarios
from tracer.model.model import Model

STRONGEST: Final = 30
"""Number of features of a pruned graph that are switched off, the most influential ones."""


@dataclass(frozen=True)
class Faithfulness:
    """Correlation (Pearson's r) of predicted and measured effects on the answer's logit.

    One feature of a prompt is switched off at a time, with attention and norms frozen.
    """

    by_title: dict[str, float]
    """Title of the first prompt of each group of the gallery -> its correlation."""
    faithfulness_median: float
    """Median over all prompts of the gallery."""
    faithfulness_lowest: float


def check_prompt(model: Model, prompt: str, limit: int = STRONGEST) -> EffectCheck:
    """Switch the most influential features of the pruned graph off, one at a time."""
    pruned = prune(trace(model, prompt))
    index = pruned.graph.index
    nodes = [node for node in pruned.nodes if node.kind == "feature"]
    nodes.sort(key=lambda node: -pruned.influence[index.row(node)])
    groups = {str(node): [node] for node in nodes[:limit]}
    run = run_scenarios(model, prompt, switched_off(groups))
    return check_target(pruned.graph, groups, run, 0)


def gallery_faithfulness(model: Model, name: str = ATLAS) -> Faithfulness:
    """Check every prompt in the gallery of the embedded model called ``name``."""
    entries = gallery(name)
    correlations = {entry: check_prompt(model, entry.prompt).correlation for entry in entries}
    first = {entry.group: entry for entry in reversed(entries)}
    return Faithfulness(
        by_title={e.title: r for e, r in correlations.items() if first[e.group] == e},
        faithfulness_median=statistics.median(correlations.values()),
        faithfulness_lowest=min(correlations.values()),
    )
