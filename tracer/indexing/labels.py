"""Label features, but only where the evidence supports it: a label states where activation goes.

The precision of a label is the share of the feature's activation that it covers. If the corpus has
tags, a feature is labelled by

1. one tag, if the feature also fires at a share of ``recall`` of the tag's tokens; of several tags,
   the one with the best harmonic mean of precision and recall;
2. up to three tags of a group, for a feature that mixes a few things or fires on part of one.

Then, for any corpus: 3. the tokens it promotes most, if the model then predicts one of them. And if
the corpus has no tags: 4. the one, two or three tokens it fires on. All other features have no
label.

Rules 1 to 3 count every observation. Rule 3 takes its words from the weights, not from the text, so
all of the text measures it. Rule 4 chooses its words on every second window and is measured on the
others, on a random sample: their share of the activation, and recall, the share of the words'
occurrences on which the feature fires. Rule 3 states its recall, too: how often the feature fires
where the model predicts its words. It has no minimum, because many features promote one word.
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
_MIN_NAMED: Final = 0.01
"""Minimum share of the activation that makes a tag worth naming next to others."""
_FEATURES_AT_ONCE: Final = 512
"""Features whose shares of all tags are computed at a time."""
_DECIMALS: Final = 6
"""Decimals to which scores are compared: sums differ in the last bits between machines."""


@dataclass(frozen=True)
class LabelRule:
    """The evidence that a label needs."""

    precision: float = 0.8
    """Minimum share of the feature's activation that the label covers."""
    recall: float = 0.4
    """Minimum share of a tag's tokens, or of the named tokens' occurrences, on which the feature
    fires (rules 1 and 4)."""
    fewest: int = 5
    """Minimum number of observations for rules 3 and 4: one observation proves nothing."""


def tag_labels(
    rule: LabelRule,
    tags: Sequence[Tag],
    groups: Mapping[str, str],
    tag_totals: Array,
    sums: Array,
    counts: Array,
    totals: Array,
) -> Labels:
    """Label features that one tag, or up to three of a group, describe (rules 1 and 2).

    ``tag_totals (tags,)``: tokens with each tag. ``sums``, ``counts`` ``(tags, features)``: the
    feature's activation there, and on how many of these tokens it fires. ``totals (features,)``:
    its complete activation.
    """
    labels: Labels = {}
    members = {
        group: [number for number, tag in enumerate(tags) if tag.group == group] for group in groups
    }
    for start in range(0, len(totals) if tags else 0, _FEATURES_AT_ONCE):
        part = slice(start, start + _FEATURES_AT_ONCE)
        precision = sums[:, part] / np.maximum(totals[part], 1e-9)
        recall = counts[:, part] / np.maximum(tag_totals, 1)[:, None]
        score = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
        score[(precision < rule.precision) | (recall < rule.recall)] = 0
        score = score.round(_DECIMALS)
        best = score.argmax(0)
        for column in np.flatnonzero(score.max(0) > 0).tolist():
            share = float(precision[best[column], column])
            labels[start + column] = tags[best[column]].label, min(share, 1.0)
        for group, prefix in groups.items():
            if members[group]:
                unions = _unions(rule, precision[members[group]])
                for column, (rows, share) in unions.items():
                    values = [tags[members[group][row]].value for row in rows]
                    labels.setdefault(start + column, (prefix + " / ".join(values), share))
    return labels


def _unions(rule: LabelRule, shares: Array) -> dict[int, tuple[list[int], float]]:
    """Return, by feature, the rows of at most three tags that cover it and their joint share."""
    order = (-shares.round(_DECIMALS)).argsort(0, kind="stable")[:_JOINED]
    reached = np.take_along_axis(shares, order, 0).cumsum(0)
    unions = {}
    for column in range(shares.shape[1]):
        for count in range(min(2, len(order)), len(order) + 1):
            if reached[count - 1, column] >= rule.precision:
                rows = order[:count, column]
                large = rows[shares[rows, column] >= _MIN_NAMED]
                if shares[large, column].sum() >= rule.precision:
                    rows = large
                unions[column] = rows.tolist(), min(float(shares[rows, column].sum()), 1.0)
                break
    return unions


def output_labels(
    rule: LabelRule,
    predicted: Array,
    promoted: Array,
    totals: Array,
    counts: Array,
    name: Callable[[int], str],
) -> Labels:
    """Label features after which the model predicts a token that they promote (rule 3).

    ``promoted (features, shown)``: ids of the tokens that each feature promotes; ``predicted``, of
    the same shape: its activation where the model then predicts that token.
    """
    share = predicted.sum(1) / np.maximum(totals, 1e-9)
    labels: Labels = {}
    for feature in np.flatnonzero((share >= rule.precision) & (counts >= rule.fewest)).tolist():
        order = (-predicted[feature]).argsort(kind="stable")[:_JOINED]
        tokens = [name(int(promoted[feature, k])) for k in order if predicted[feature, k] > 0]
        labels[feature] = "say " + " / ".join(tokens), min(float(share[feature]), 1.0)
    return labels


def output_recall(
    predicted: Array, promoted: Array, predicted_counts: Array, predictions: Array, feature: int
) -> float:
    """Return on which share of the predictions of a feature's named tokens it fires (rule 3).

    ``predicted_counts``: by feature and promoted token, on how many tokens it fires and the model
    predicts that one. ``predictions (vocab,)``: how often the model predicts each token.
    """
    named = (-predicted[feature]).argsort(kind="stable")[:_JOINED]
    named = named[predicted[feature, named] > 0]
    total = predictions[promoted[feature, named]].sum()
    return min(float(predicted_counts[feature, named].sum() / max(total, 1)), 1.0)


def token_label(
    rule: LabelRule,
    tokens: Array,
    values: Array,
    held_out: Array,
    count: int,
    occurrences: Array,
    name: Callable[[int], str],
) -> tuple[str, float, float] | None:
    """Label a feature by the tokens it fires on, if one to three of them cover it (rule 4).

    ``tokens``, ``values``: its sample; ``held_out``: which of it is from text that the words are
    not chosen on, but measured. ``count``: on how many tokens it fires altogether. ``occurrences
    (vocab,)``: how often each token is in the held-out text. Returns label, precision and recall.
    """
    if count < rule.fewest or held_out.all() or not held_out.any():
        return None
    distinct, place = np.unique(tokens[~held_out], return_inverse=True)
    mass = np.bincount(place, weights=values[~held_out].astype(np.float64))
    order = (-mass).argsort(kind="stable")[:_JOINED]
    reached = mass[order].cumsum() / mass.sum()
    n = int((reached < rule.precision).sum()) + 1
    if n > len(order):
        return None
    named = distinct[order[:n]]
    fits = np.isin(tokens, named) & held_out
    precision = min(float(values[fits].sum() / values[held_out].sum()), 1.0)
    firings = fits.sum() * count / len(tokens)
    recall = min(float(firings / max(occurrences[named].sum(), 1)), 1.0)
    if precision < rule.precision or recall < rule.recall:
        return None
    names = [f"“{name(int(token))}”" for token in named]
    return " / ".join(dict.fromkeys(names)), precision, recall


def with_examples(label: str, strongest: Sequence[str]) -> str:
    """Replace a ``*`` at the end of a tag's label by up to three of the ``strongest`` tokens.

    >>> with_examples("Texas: *", ["Dallas", "Waco", "Dallas"])
    'Texas: Dallas, Waco'
    """
    if not label.endswith("*"):
        return label
    return label.removesuffix("*") + ", ".join(list(dict.fromkeys(strongest))[:3])


def shortened(label: str) -> str:
    """Return the label, cut to a readable length."""
    return label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1].rstrip(" ,/") + "…"
