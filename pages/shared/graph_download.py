"""A stored graph as files to download: one HTML page, tables, or many graphs in a zip."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Final, Literal

from cache import Annotations, ModelChoice, StoredGraph, StoreError
from cache.graph_files import slug
from charts.graph_table import edge_table, node_table
from charts.graph_view import GraphView
from pages.shared import resources
from pages.shared.share_file import share_html
from tracer.errors import TracerError
from tracer.features.cards import FeatureCard
from tracer.graph.graph import AttributionGraph
from tracer.graph.pruning import with_nodes
from tracer.types import FeatureId, Thresholds

Form = Literal["JSON", "CSV", "HTML"]
MOST_BYTES: Final = 8_000_000
"""A shared file stays below this by leaving out examples of the least influential features."""


def shared_file(key: str, thresholds: Thresholds, annotations: Annotations | None = None) -> bytes:
    """Return the graph stored under ``key`` as one HTML file that needs no server.

    It has the graph at ``thresholds``, with notes, the feature cards that are on this disk, and
    ``annotations``, or those that are stored.

    Raises :class:`StoreError` when the graph is gone, and :class:`TracerError` when it alone is too
    large.
    """
    backend = resources.backend()
    if annotations is None:
        annotations = backend.annotations(key)
    view = _view(key, thresholds, annotations)
    entry = _entry(key)
    cards = _cards(view)
    while True:
        page = share_html(
            view,
            cards,
            annotations.supernodes,
            annotations.pinned,
            entry.title if entry else "",
            entry.notes if entry else "",
        )
        if len(page) < MOST_BYTES:
            return page
        if not cards:
            raise TracerError(
                f"the file would take {len(page):,} bytes, more than {MOST_BYTES:,}: lower the "
                "thresholds on the Trace page first"
            )
        cards = dict(list(cards.items())[: len(cards) // 2])


def tables(key: str, thresholds: Thresholds) -> tuple[bytes, bytes]:
    """Return the nodes and the edges of a graph as CSV."""
    view = _view(key, thresholds, resources.backend().annotations(key))
    nodes, edges = node_table(view), edge_table(view)
    return nodes.to_csv(index=False).encode(), edges.to_csv(index=False).encode()


def archive(entries: Sequence[StoredGraph], form: Form, thresholds: Thresholds) -> bytes:
    """Return a zip with every graph; those that failed are named in ``not exported.txt``."""
    content, failures = io.BytesIO(), []
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for entry in entries:
            name = f"{slug(entry.title or entry.prompt)}-{entry.key[:8]}"
            try:
                for ending, part in _files(entry.key, form, thresholds):
                    file.writestr(f"{name}{ending}", part)
            except TracerError as error:
                failures.append(f"{entry.title or entry.prompt}: {error}")
        if failures:
            file.writestr("not exported.txt", "\n".join(failures) + "\n")
    return content.getvalue()


def _files(key: str, form: Form, thresholds: Thresholds) -> list[tuple[str, bytes]]:
    if form == "JSON":
        return [(".json", resources.backend().export_graph(key, thresholds))]
    if form == "HTML":
        return [(".html", shared_file(key, thresholds))]
    nodes, edges = tables(key, thresholds)
    return [("-nodes.csv", nodes), ("-edges.csv", edges)]


def _entry(key: str) -> StoredGraph | None:
    backend = resources.backend()
    own_key = backend.store.key_of(key) or key
    return next((entry for entry in backend.stored() if entry.key == own_key), None)


def _view(key: str, thresholds: Thresholds, annotations: Annotations) -> GraphView:
    """Return the graph as it is shown at ``thresholds``, with its pins."""
    backend = resources.backend()
    pruned = backend.pruned(key, thresholds)
    if pruned is None:
        raise StoreError("this graph is not in the library any more: trace or import it again")
    marked = [*annotations.pinned, *(n for group in annotations.supernodes for n in group.nodes)]
    marked = [node for node in marked if node in pruned.graph.index]
    if marked:
        pruned = with_nodes(pruned, marked)
    names = resources.names(choice_of(pruned.graph), pruned)
    return GraphView(pruned, names, pinned=frozenset(marked))


def choice_of(graph: AttributionGraph) -> ModelChoice:
    """Return the model that a graph says it was traced with."""
    fresh = ModelChoice()
    provenance = graph.provenance
    return ModelChoice(
        str(provenance.get("model") or fresh.model),
        str(provenance.get("transcoders") or fresh.transcoders),
    )


def _cards(view: GraphView) -> dict[FeatureId, FeatureCard]:
    """Return the cards on this disk, those of the most influential features first."""
    source = resources.feature_source(view.pruned.graph, choice_of(view.pruned.graph))
    cards: dict[FeatureId, FeatureCard] = {}
    if source is None:
        return cards
    for node in view.most_influential(len(view.rows)):
        try:
            card = resources.card(source, node.feature)
        except TracerError:
            continue  # the file is complete without a damaged card
        if card is not None:
            cards[node.feature] = card
    return cards
