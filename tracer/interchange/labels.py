"""What a published graph, or a reader of it, calls its nodes. Data only."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from tracer.errors import ExternalGraphError
from tracer.interchange.graph_json import ExternalGraph
from tracer.interchange.published_nodes import ExternalNode, cantor_pair
from tracer.interchange.reader_state import read_labels
from tracer.types import FeatureId, NodeId

_PROBABILITY: Final = r" ?k?\(p=(?P<probability>[0-9][0-9.eE+-]{0,30})\)"
_QUOTED: Final = re.compile(
    rf"(?:[A-Za-z]{{1,20}}:? ?)?(?P<quote>[\"'])(?P<token>.*)(?P=quote)(?:{_PROBABILITY})?",
    re.DOTALL,
)
_PLAIN: Final = re.compile(rf"(?P<token>.*?){_PROBABILITY}", re.DOTALL)
_OLD_BASE: Final = 100_000
"""Files without a schema version number the feature of a layer as ``layer * 100000 + index``."""


def external_labels(external: ExternalGraph) -> dict[FeatureId, str]:
    """Return the labels of features: a reader's own (``clerps``), or else the file's."""
    own = readers_labels(external)
    labels: dict[FeatureId, str] = {}
    for number, entry in enumerate(external.nodes):
        if entry.node is not None and entry.node.kind == "feature":
            label = own.get(number) or files_label(entry)
            if label and (number in own or entry.node.feature not in labels):
                labels[entry.node.feature] = label
    return labels


def readers_labels(external: ExternalGraph) -> dict[int, str]:
    """Return the labels that a reader gave, by the number of the node.

    The front ends key them by the node's id, by layer, feature and position, or by the feature
    alone, where the feature is the number in the file: plain, or paired with the layer.
    """
    try:
        labels = read_labels(external.parameters.get("clerps"), "the graph")
    except ExternalGraphError:
        return {}  # labels are an extra: the graph is complete without them
    if not labels:
        return {}
    stored = {str(entry.stored.get("feature")) for entry in external.nodes}
    nodes = [entry.node for entry in external.nodes if entry.node is not None]
    others = {key: label for key, label in labels.items() if key not in stored}
    computed = labelled(nodes, others)
    chosen = {}
    for number, entry in enumerate(external.nodes):
        key = next((key for key in _stored_keys(entry) if key in labels), "")
        label = labels.get(key, "").strip() or (computed.get(entry.node) if entry.node else None)
        if label:
            chosen[number] = label
    return chosen


def with_labels(external: ExternalGraph, own: Mapping[FeatureId, str]) -> ExternalGraph:
    """Return the graph with a reader's ``own`` labels (``clerps``), in addition to those it has.

    It is unchanged when it has none of these features.
    """
    renamed = {
        entry.id: own[entry.node.feature]
        for entry in external.nodes
        if entry.node is not None and entry.node.kind == "feature" and entry.node.feature in own
    }
    if not renamed:
        return external
    stored = external.parameters.get("clerps")
    try:
        before = read_labels(stored, "the graph")
    except ExternalGraphError:
        before = {}
    pairs = [list(pair) for pair in {**before, **renamed}.items()]
    clerps = json.dumps(pairs, ensure_ascii=False) if isinstance(stored, str) else pairs
    return replace(external, parameters={**external.parameters, "clerps": clerps})


def labelled(nodes: Iterable[NodeId], labels: Mapping[str, str]) -> dict[NodeId, str]:
    """Return the features that have a label, where the labels are keyed as the front ends do.

    See :func:`label_keys`. A plain index is a key too where features of one layer alone have it.

    >>> labelled([NodeId("feature", 3, 8, 417)], {"88827": "dogs"})
    {NodeId(kind='feature', layer=3, position=8, index=417): 'dogs'}
    """
    features = [node for node in nodes if _is_feature(node)] if labels else []
    layers: dict[int, set[int]] = defaultdict(set)
    for node in features:
        layers[node.index].add(node.layer)
    chosen = {}
    for node in features:
        plain = [str(node.index)] if len(layers[node.index]) == 1 else []
        key = next((key for key in (*label_keys(node), *plain) if key in labels), "")
        if labels.get(key, "").strip():
            chosen[node] = labels[key].strip()
    return chosen


def _stored_keys(entry: ExternalNode) -> Iterator[str]:
    """Yield the keys of a node's label that follow from its entry, the most specific first."""
    stored = entry.stored
    yield entry.id
    yield str(stored.get("jsNodeId"))
    feature = stored.get("feature")
    yield f"{stored.get('layer')}_{feature}_{stored.get('ctx_idx')}"
    if type(feature) is int and feature >= 0:
        yield str(feature)


def _is_feature(node: NodeId) -> bool:
    """Return whether a node is a feature, of a transcoder or of a kind that only others compute."""
    return node.index >= 0 and node.kind not in ("token", "logit")


def label_keys(node: NodeId) -> Iterator[str]:
    """Yield the keys of the label of a feature that tell its layer, the most specific first.

    >>> list(label_keys(NodeId("feature", 3, 8, 417)))
    ['3_417_8', '3_88827_8', '88827', '3_300417_8', '300417']
    """
    yield f"{node.layer}_{node.index}_{node.position}"
    numbers = [cantor_pair(node.layer, node.index)]
    if node.index < _OLD_BASE:
        numbers.append(node.layer * _OLD_BASE + node.index)
    for number in numbers:
        yield f"{node.layer}_{number}_{node.position}"
        yield str(number)


def files_label(entry: ExternalNode) -> str:
    """Return the label in the file, without one that only repeats the feature's number.

    >>> files_label(ExternalNode("3_lor_2_4", None, " dogs ", {"feature": 17}))
    'dogs'
    >>> files_label(ExternalNode("3_lor_2_4", None, "F17", {"feature": 17}))
    ''
    """
    label = entry.label.strip()
    return "" if label == f"F{entry.stored.get('feature')}" else label


def answer_name(entry: ExternalNode) -> str:
    """Return the token of a logit: its field ``token``, or what its label quotes.

    Labels are published as ``Output " Austin" (p=0.332)``, ``Logit " Austin" (p=0.332)``,
    ``output: 'Austin' (p=1.000)``, or as the token alone.

    >>> answer_name(ExternalNode("27_5_7", None, 'Logit " Paris" (p=0.412)', {}))
    ' Paris'
    >>> answer_name(ExternalNode("27_5_7", None, "F5", {"token": " Paris"}))
    ' Paris'
    """
    token = entry.stored.get("token")
    if isinstance(token, str) and token:
        return token
    label = entry.label.strip()
    match = _QUOTED.fullmatch(label) or _PLAIN.fullmatch(label)
    return match["token"] if match else entry.label


def answer_probability(entry: ExternalNode) -> float:
    """Return the probability of a logit: its field ``token_prob``, or what its label says; or 0.

    >>> answer_probability(ExternalNode("27_5_7", None, 'Logit " Paris" (p=0.412)', {}))
    0.412
    """
    stored = entry.stored.get("token_prob")
    if stored is not None:
        return float(stored)
    label = entry.label.strip()
    match = _QUOTED.fullmatch(label) or _PLAIN.fullmatch(label)
    try:
        return min(float(match["probability"]), 1.0) if match and match["probability"] else 0.0
    except ValueError:  # such as "1.2.3"
        return 0.0
