"""A label only if it is earned: rules that ask of every feature what its activation goes to.

A label's precision is the share of the feature's activation that it covers. Where the corpus has
tags, a feature is labelled by

1. one tag that it also fires on in ``recall`` of the places where the tag holds; of several the one
   with the best harmonic mean of both;
2. up to three tags of a group, for features that mix a few things, or fire on part of one.

Then, on any corpus: 3. the tokens it promotes most, if the model then says one of them. And where
the corpus has no tags: 4. the one, two or three tokens it fires on. Every other feature has none.
Rules 1 to 3 count every observation; rule 4 measures its share on the feature's fair sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tracer.indexing.corpus import Tag

Labels = dict[int, tuple[str, float]]
"""Label and precision by feature."""
Array = NDArray[Any]

_MAX_LABEL: Final = 40
_JOINED: Final = 3
_NAMED: Final = 0.01
"""Share of the activation from which on a tag is worth naming beside others."""
_AT_ONCE: Final = 512
"""Features whose shares of all tags are laid out at a time."""
_SAME: Final = 6
"""Decimals to which scores are compared: sums differ in the last bits between machines."""


@dataclass(frozen=True)
class LabelRule:
    """What a label needs."""

    precision: float = 0.8
    recall: float = 0.4
    fewest: int = 5
    """Observations that rules 3 and 4 ask for: a feature that fired once proves nothing."""


def tag_labels(
    rule: LabelRule,
    tags: Sequence[Tag],
    groups: Mapping[str, str],
    held: Array,
    sums: Array,
    counts: Array,
    totals: Array,
) -> Labels:
    """Features that one tag, or up to three of a group, describe.

    ``held (tags,)``: tokens at which each tag holds. ``sums``, ``counts`` ``(tags, features)``:
    the activation there, and the tokens among them on which the feature fires. ``totals
    (features,)``: all of its activation.
    """
    labels: Labels = {}
    members = {
        group: [number for number, tag in enumerate(tags) if tag.group == group] for group in groups
    }
    for start in range(0, len(totals) if tags else 0, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        precision = sums[:, part] / np.maximum(totals[part], 1e-9)
        recall = counts[:, part] / np.maximum(held, 1)[:, None]
        score = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
        score[(precision < rule.precision) | (recall < rule.recall)] = 0
        score = score.round(_SAME)
        best = score.argmax(0)
        for column in np.flatnonzero(score.max(0) > 0).tolist():
            share = float(precision[best[column], column])
            labels[start + column] = tags[best[column]].label, min(share, 1.0)
        for group, begins in groups.items():
            if members[group]:
                found = _unions(rule, precision[members[group]])
                for column, (rows, share) in found.items():
                    names = [tags[members[group][row]].what for row in rows]
                    labels.setdefault(start + column, (begins + " / ".join(names), share))
    return labels


def _unions(rule: LabelRule, shares: Array) -> dict[int, tuple[list[int], float]]:
    """Per feature the rows of the at most three tags that cover it; their shares add up."""
    order = (-shares.round(_SAME)).argsort(0, kind="stable")[:_JOINED]
    reached = np.take_along_axis(shares, order, 0).cumsum(0)
    found = {}
    for column in range(shares.shape[1]):
        for count in range(min(2, len(order)), len(order) + 1):
            if reached[count - 1, column] >= rule.precision:
                rows = order[:count, column]
                large = rows[shares[rows, column] >= _NAMED]
                if shares[large, column].sum() >= rule.precision:
                    rows = large
                found[column] = rows.tolist(), min(float(shares[rows, column].sum()), 1.0)
                break
    return found


def said_labels(
    rule: LabelRule,
    said: Array,
    promoted: Array,
    totals: Array,
    counts: Array,
    name: Callable[[int], str],
) -> Labels:
    """Features on which the model then says a token that they promote.

    ``said``, ``promoted`` ``(features, shown)``: the activation where the model says each promoted
    token, and the tokens' ids.
    """
    share = said.sum(1) / np.maximum(totals, 1e-9)
    labels: Labels = {}
    for feature in np.flatnonzero((share >= rule.precision) & (counts >= rule.fewest)).tolist():
        order = (-said[feature]).argsort(kind="stable")[:_JOINED]
        tokens = [name(int(promoted[feature, k])) for k in order if said[feature, k] > 0]
        labels[feature] = "say " + " / ".join(tokens), min(float(share[feature]), 1.0)
    return labels


def token_label(
    rule: LabelRule, tokens: Array, values: Array, count: int, name: Callable[[int], str]
) -> tuple[str, float] | None:
    """The tokens a feature fires on, if one, two or three of them cover its activation.

    ``tokens``, ``values``: its sample. ``count``: all tokens on which it fires.
    """
    if count < rule.fewest:
        return None
    distinct, place = np.unique(tokens, return_inverse=True)
    mass = np.bincount(place, weights=values.astype(np.float64))
    order = (-mass).argsort(kind="stable")[:_JOINED]
    reached = mass[order].cumsum() / mass.sum()
    for n in range(1, len(order) + 1):
        if reached[n - 1] >= rule.precision:
            names = [f"“{name(int(distinct[k]))}”" for k in order[:n]]
            return " / ".join(dict.fromkeys(names)), min(float(reached[n - 1]), 1.0)
    return None


def written_out(label: str, strongest: Sequence[str]) -> str:
    """A tag's label with examples in place of ``*``. ``strongest``: names of the tokens the feature
    fires on, the strongest first."""
    if not label.endswith("*"):
        return label
    return label.removesuffix("*") + ", ".join(list(dict.fromkeys(strongest))[:3])


def shortened(label: str) -> str:
    """The label cut to a readable length."""
    return label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1].rstrip(" ,/") + "…"
