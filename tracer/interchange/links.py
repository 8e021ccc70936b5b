"""Links to graphs on Neuronpedia, or on a circuit-tracer server, and the marks they carry.

The front ends keep what a reader marked in the address: pins, supernodes and labels. Nothing here
follows a link; it is text from outside, and read with limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from tracer.errors import ExternalGraphError, short
from tracer.graph.graph import AttributionGraph
from tracer.interchange.labels import labelled
from tracer.interchange.marks import annotations_by_id, distinct
from tracer.interchange.placing import published_id
from tracer.interchange.reader_state import Groups, read_groups, read_ids, read_labels
from tracer.types import FeatureId, NodeId, Supernode

MAX_LENGTH: Final = 200_000
"""The most characters of a link; the longest published ones have about 15,000."""
MAX_MARKS: Final = 10_000
"""The most pins, members of supernodes, or labels of one link."""
MAX_TEXT: Final = 400
"""The most characters of an id, a name or a label."""
_MAX_FIELDS: Final = 100
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SLUG: Final = re.compile(r"[^\s/?#\x00-\x1f\x7f]{1,200}")
_EXAMPLE: Final = "https://www.neuronpedia.org/gemma-2-2b/graph?slug=…"


@dataclass(frozen=True)
class GraphLink:
    """A link to a published graph, and what its sender marked there."""

    slug: str
    """The short name of the graph."""
    model: str | None = None
    """Neuronpedia's name of the model; None on a circuit-tracer server, which has one model."""
    pinned: tuple[str, ...] = ()
    """Published ids of the pinned nodes."""
    supernodes: Groups = ()
    """Names, each with the published ids of its nodes."""
    clerps: tuple[tuple[str, str], ...] = ()
    """Labels: the key as the front end writes it, and the text."""


@dataclass(frozen=True)
class LinkMarks:
    """What a link marks in a graph of this library."""

    pinned: tuple[NodeId, ...]
    """Without the members of supernodes."""
    supernodes: tuple[Supernode, ...]
    labels: Mapping[FeatureId, str]
    missing: tuple[str, ...]
    """Ids of the link that are not in the graph."""


def read_link(text: str) -> GraphLink:
    """Read a link that was copied from Neuronpedia, or from a circuit-tracer server.

    Raises :class:`ExternalGraphError` for anything else, also for one that is too long or damaged.

    >>> link = read_link(
    ...     "https://www.neuronpedia.org/gemma-2-2b/graph?slug=dallas&pinnedIds=27_22605_10%2C"
    ...     "20_15589_10&supernodes=%5B%5B%22Texas%22%2C%2220_15589_10%22%5D%5D"
    ... )
    >>> link.model, link.slug, link.pinned
    ('gemma-2-2b', 'dallas', ('27_22605_10', '20_15589_10'))
    >>> link.supernodes
    (('Texas', ('20_15589_10',)),)
    """
    if len(text) > MAX_LENGTH:
        raise ExternalGraphError(
            f"the link has {len(text):,} characters, at most {MAX_LENGTH:,} can be read"
        )
    try:
        text.encode()
        parts = _split(text.strip())
        query = dict(parse_qsl(parts.query, max_num_fields=_MAX_FIELDS, errors="strict"))
    except ValueError as error:  # too many fields, or halves of characters
        raise ExternalGraphError(
            f"the link cannot be read: it has more than {_MAX_FIELDS} parameters, or characters "
            "that are not UTF-8"
        ) from error
    model, slug = _graph_of(parts, query)
    link = GraphLink(
        slug=slug,
        model=model,
        pinned=read_ids(query.get("pinnedIds"), "the link"),
        supernodes=read_groups(query.get("supernodes"), "the link"),
        clerps=tuple(read_labels(query.get("clerps"), "the link").items()),
    )
    _check_size(link)
    return link


def _split(text: str) -> SplitResult:
    """Split an address; one without a scheme is completed, as browsers do."""
    try:
        if not re.match(r"[a-zA-Z][a-zA-Z0-9+.-]{0,20}://|/", text):
            text = f"https://{text}"
        parts = urlsplit(text)
    except ValueError as error:  # such as "https://[x"
        raise _not_a_link(text) from error
    if parts.scheme not in ("http", "https", ""):
        raise _not_a_link(text)
    return parts


def _graph_of(parts: SplitResult, query: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the model and the slug: ``/{model}/graph?slug=…``, or any page with a slug."""
    folders = [unquote(part) for part in parts.path.split("/") if part]
    slug = query.get("slug", "")
    if len(folders) > 2 and folders[1] == "graph" and not slug:
        slug = folders[2]
    if not _SLUG.fullmatch(slug):
        raise _not_a_link(parts.geturl())
    on_neuronpedia = len(folders) >= 2 and folders[1] == "graph"
    model = folders[0] if on_neuronpedia else None
    if model is not None and not _MODEL.fullmatch(model):
        raise _not_a_link(parts.geturl())
    return model, slug


def _not_a_link(text: str) -> ExternalGraphError:
    return ExternalGraphError(
        f"{short(repr(text))} is not a link to a graph, expected one such as {_EXAMPLE}"
    )


def _check_size(link: GraphLink) -> None:
    members = [member for _, group in link.supernodes for member in group]
    for what, count in (
        ("pins", len(link.pinned)),
        ("members of supernodes", len(members) + len(link.supernodes)),
        ("labels", len(link.clerps)),
    ):
        if count > MAX_MARKS:
            raise ExternalGraphError(
                f"the link has {count:,} {what}, at most {MAX_MARKS:,} can be read"
            )
    texts = (*link.pinned, *members, *(name for name, _ in link.supernodes))
    longest = max((*texts, *(text for pair in link.clerps for text in pair)), key=len, default="")
    if len(longest) > MAX_TEXT:
        raise ExternalGraphError(
            f"the link has an id or a name of {len(longest):,} characters, expected at most "
            f"{MAX_TEXT}"
        )


def link_marks(link: GraphLink, graph: AttributionGraph) -> LinkMarks:
    """Return what a link marks in a graph, traced here or imported.

    A label may name its feature by id, by number, or by layer, number and position, as in a file.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
    >>> node = graph.index.node(0)
    >>> link = GraphLink("hot", pinned=(published_id(graph, node), "0_99999_1"))
    >>> marks = link_marks(link, graph)
    >>> marks.pinned == (node,), marks.missing
    (True, ('0_99999_1',))
    """
    place = dict(_places(graph))
    pinned, supernodes = annotations_by_id(place, link.pinned, link.supernodes)
    named = (*link.pinned, *(member for _, group in link.supernodes for member in group))
    labels: dict[FeatureId, str] = {}
    features = [graph.index.node(row) for row in range(graph.index.n_features)]
    for node, label in labelled(features, dict(link.clerps)).items():
        labels.setdefault(node.feature, label)
    missing = tuple(dict.fromkeys(name for name in named if name not in place))
    return LinkMarks(pinned, supernodes, labels, missing)


def add_marks(
    pinned: Sequence[NodeId], supernodes: Sequence[Supernode], marks: LinkMarks
) -> tuple[tuple[NodeId, ...], tuple[Supernode, ...]]:
    """Return pins and supernodes with those of a link added; nothing that is there is lost.

    A node stays in the supernode it is in, and a supernode whose name is taken gets a number.

    >>> a, b = NodeId("feature", 0, 1, 7), NodeId("feature", 1, 2, 9)
    >>> marks = LinkMarks((b,), (Supernode("size", (a, b)),), {}, ())
    >>> pins, groups = add_marks([a], [Supernode("size", (b,))], marks)
    >>> pins, [(group.name, group.nodes == (a,)) for group in groups]
    ((), [('size', False), ('size (2)', True)])
    """
    taken = {node for group in supernodes for node in group.nodes}
    members = [tuple(n for n in group.nodes if n not in taken) for group in marks.supernodes]
    added = [
        replace(group, nodes=nodes)
        for group, nodes in zip(marks.supernodes, members, strict=True)
        if nodes
    ]
    names = distinct([group.name for group in (*supernodes, *added)])[len(supernodes) :]
    groups = (
        *supernodes,
        *(replace(group, name=name) for group, name in zip(added, names, strict=True)),
    )
    grouped = {node for group in groups for node in group.nodes}
    pins = dict.fromkeys((*pinned, *marks.pinned))
    return tuple(node for node in pins if node not in grouped), groups


def marks_sentence(marks: LinkMarks) -> str:
    """Say what a link marks in a graph, and what of it is not there.

    >>> marks_sentence(LinkMarks((), (Supernode("size", ()),), {}, ("9_9_9",)))
    'The link has 1 supernode. 1 node of the link is not in this graph.'
    """
    counts = (
        (len(marks.pinned), "pin"),
        (len(marks.supernodes), "supernode"),
        (len(marks.labels), "label"),
    )
    parts = [f"{count:,} {noun}{'' if count == 1 else 's'}" for count, noun in counts if count]
    listed = " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
    text = f"The link has {listed}." if parts else "The link marks nothing in this graph."
    missing = len(marks.missing)
    if missing:
        verb = "node of the link is" if missing == 1 else "nodes of the link are"
        text += f" {missing:,} {verb} not in this graph."
    return text


def _places(graph: AttributionGraph) -> Iterator[tuple[str, NodeId]]:
    """Yield every node with each of its published ids, the one that counts last."""
    last = graph.n_layers + 1
    nodes = [graph.index.node(row) for row in range(graph.n_nodes)]
    for node in nodes:
        if node.kind == "error":  # in older files, where a feature may have the same id
            yield f"0_{node.layer}_{node.position}", node
        elif node.kind == "logit":  # in files that do not count the embedding as a layer
            yield f"{last - 1}_{node.index}_{node.position}", node
    for node in reversed(nodes):
        yield published_id(graph, node), node
