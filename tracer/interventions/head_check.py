"""`check_pairs`: take pairs of sources out of a head's score and compare what the model then does.

The linear model predicts how the head's attention moves and what that does to the answer directly,
with everything else frozen. How much of it happens when the rest of the model responds is measured,
next to random pairs of the same head and to the same change at other heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tracer.attention.results import AttentionExplanation, Pair
from tracer.attention.split import moved_from, start_of
from tracer.attribution.cuts import CutModel
from tracer.attribution.trace import trace
from tracer.errors import InterventionError
from tracer.interventions.faithfulness import target_logit
from tracer.interventions.head_edit import HeadEdit, without_pairs
from tracer.interventions.head_hooks import reweighted
from tracer.interventions.results import ScenarioRun
from tracer.interventions.run import run_scenarios
from tracer.interventions.scenario import Scenario
from tracer.model.failures import as_tracer_errors
from tracer.model.model import Model
from tracer.types import Progress, Target


@dataclass(frozen=True)
class PairCheck:
    """What happens when pairs are taken out of a score. Effects are changes of the top logit."""

    edit: HeadEdit
    target: str
    """The most likely next token."""
    attention_before: float
    """The attention weight of the key."""
    attention_after: float
    """The same, as predicted by the softmax without the pairs."""
    predicted: float
    """What the linear model says the logit changes by directly."""
    direct: float
    """The same, measured: attention elsewhere, norms and MLP outputs are frozen."""
    frozen: float
    """With attention frozen elsewhere: MLPs and norms respond."""
    free: float
    """With nothing frozen."""
    random_pairs: tuple[float, ...]
    """With nothing frozen, for as many random pairs of sources of the same head."""
    other_heads: tuple[tuple[str, float], ...]
    """With nothing frozen, for the same change of the score at other heads, between the same
    positions."""


def check_pairs(
    model: Model,
    prompt: str | Sequence[int],
    why: AttentionExplanation,
    pairs: int = 3,
    n_random: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> PairCheck:
    """Take the ``pairs`` strongest pairs out of the score that ``why`` explains, and measure.

    ``why`` is an explanation of a score of this prompt. Random pairs are drawn from the sources
    that the two sides have, with ``seed``; up to ``n_random`` other heads are drawn, too. The
    prediction leaves biases of values out, which matters only where a head has a sink.

    Raises :class:`InterventionError` for numbers below 1, an explanation of a difference of scores,
    or one of another prompt, and the errors of :func:`run_scenarios`.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> prompt = "The capital of the state containing Dallas is"
    >>> why = tracer.explain_attention(model, prompt, layer=4, head=0, query=-1)
    >>> check = tracer.check_pairs(model, prompt, why, n_random=2)
    >>> bool(abs(check.predicted - check.direct) < 1e-3)
    True
    """
    for name, value in (("pairs", pairs), ("n_random", n_random)):
        if value < 1:
            raise InterventionError(f"{name} is {value}: it must be at least 1")
    ids = model.encode(prompt)
    if ids != why.sources.token_ids:
        raise InterventionError(
            f"this explanation is of {''.join(why.sources.tokens)!r}, not of this prompt: explain "
            "its attention first"
        )
    edit = without_pairs(why, why.pairs(pairs))
    generator = np.random.default_rng(seed)
    controls = [_random_pairs(why, pairs, generator) for _ in range(n_random)]
    others = _other_heads(model, edit, n_random, generator)
    every = tuple(range(model.n_layers))
    scenarios = [
        Scenario("direct", (), True, every, True, (edit,)),
        Scenario("frozen", (), True, head_edits=(edit,)),
        *(
            Scenario(other.label, (), False, head_edits=(other,))
            for other in (edit, *controls, *others)
        ),
    ]
    graph = trace(model, list(ids), max_logits=1, max_features=0)
    target, node = graph.targets[0], graph.index.node(graph.index.logit_rows.start)
    query, key = edit.positions(len(ids))
    with as_tracer_errors("checking pairs", model.device, "shorten the prompt"):
        cuts = CutModel(model, ids)
        moved = moved_from(cuts, start_of(cuts, graph, node), edit.layer, query)[edit.head]
    before = torch.from_numpy(why.pattern)
    after = reweighted(before, {key: edit.value}).numpy()
    growth = np.divide(after, why.pattern, out=np.ones_like(after), where=why.pattern > 0)
    run = run_scenarios(model, list(ids), scenarios, progress=progress)
    direct, frozen, free, *rest = _changes(run, target)
    return PairCheck(
        edit=edit,
        target=target.label,
        attention_before=float(why.pattern[key]),
        attention_after=float(after[key]),
        predicted=float((moved * (growth - 1)).sum()),
        direct=direct,
        frozen=frozen,
        free=free,
        random_pairs=tuple(rest[:n_random]),
        other_heads=tuple(
            (f"L{other.layer} H{other.head}", change)
            for other, change in zip(others, rest[n_random:], strict=True)
        ),
    )


def _random_pairs(
    why: AttentionExplanation, count: int, generator: np.random.Generator
) -> HeadEdit:
    """Return the edit that takes out random pairs of sources that both sides have."""
    sides = [np.flatnonzero(side) for side in (why.query, why.key)]
    pairs = [
        Pair(query, key, why.pair(query, key))
        for query, key in zip(*(generator.choice(side, count).tolist() for side in sides),
                              strict=True)
    ]  # fmt: skip
    return without_pairs(why, pairs)


def _other_heads(
    model: Model, edit: HeadEdit, count: int, generator: np.random.Generator
) -> list[HeadEdit]:
    heads = [
        (layer, head)
        for layer, block in enumerate(model.blocks)
        for head in range(len(block.W_O))
        if (layer, head) != (edit.layer, edit.head)
    ]
    chosen = generator.permutation(len(heads))[:count].tolist()
    return [replace(edit, layer=heads[place][0], head=heads[place][1]) for place in sorted(chosen)]


def _changes(run: ScenarioRun, target: Target) -> list[float]:
    """Return by how much every scenario changes the target's logit."""
    before = target_logit(run, run.baseline, target)
    changes = []
    for outcome in run.outcomes:
        if isinstance(outcome, InterventionError):
            raise outcome
        changes.append(target_logit(run, outcome, target) - before)
    return changes
