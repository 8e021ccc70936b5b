"""The Heads view: all edges of the pruned graph by the head that carried them."""

from __future__ import annotations

import json
from functools import partial
from typing import Final

import streamlit as st

from cache import StoreError, WhoCarriedEdges
from cache.graph_files import slug
from charts.graph_view import GraphView
from charts.heads import head_edges_table, head_of, heads_json, heads_table
from charts.text import place, plural
from pages.shared import progress, resources, selection
from pages.shared.escape import plain, sentence
from pages.shared.session import read_session, visitor_id
from pages.shared.session_state import Session
from pages.trace.carried_by import open_head
from tracer.attention.edge_heads import EdgeHeads
from tracer.errors import TracerError
from tracer.graph.graph import AttributionGraph
from tracer.types import NodeId

KEY: Final = "attention_heads"
"""The key of the heads in an exported graph."""


def draw(key: str, view: GraphView, session: Session) -> None:
    """Draw a table of heads, and the edges of the open one."""
    graph = view.pruned.graph
    if resources.is_imported(graph):
        st.info("This graph was imported without its model, so its edges cannot be split by heads.")
        return
    question = WhoCarriedEdges(session.thresholds)
    job = resources.backend().attention.edges(key, question, session.choice, visitor_id())
    progress.wait_for(job, "heads", "Following attention")
    try:
        heads = job.result()
    except TracerError as error:
        st.error(plain(sentence(error)))
        return
    table = heads_table(heads, graph.tokens)
    share = st.column_config.ProgressColumn
    st.dataframe(
        table.drop(columns="id"),
        key="heads table",
        hide_index=True,
        on_select=partial(_head_picked, tuple(table["id"])),
        selection_mode="single-row",
        height=min(420, 36 * (len(table) + 1)),
        column_config={
            "carries": share(
                format="percent",
                min_value=0.0,
                max_value=max(0.01, float(table["carries"].max())),
                help="Share of all edges' absolute weight that this head moved last.",
            ),
            "edges": st.column_config.NumberColumn(
                help="Edges that this head carries by more than half."
            ),
        },
    )
    if heads.n_left_out:
        nodes = plural(heads.n_left_out, "less influential node")
        st.caption(f"Without the edges into {nodes}: select one to see what carried its input.")
    if session.heads.head is not None:
        _edges(heads, session.heads.head, view)
    _download(key, view, session, heads)


def _head_picked(ids: tuple[str, ...]) -> None:
    rows = st.session_state["heads table"]["selection"]["rows"]
    head = head_of(ids[rows[0]]) if rows and rows[0] < len(ids) else None
    if head != read_session().heads.head:
        open_head(head)


def _edges(heads: EdgeHeads, head: tuple[int, int], view: GraphView) -> None:
    table = head_edges_table(heads, *head, lambda node: _named(view, node))
    st.markdown(f"**Edges that L{head[0]} H{head[1]} carries** :gray[strongest first]")
    number = st.column_config.NumberColumn
    st.dataframe(
        table.drop(columns="target"),
        key=f"edges of {head}",
        hide_index=True,
        on_select=partial(_edge_picked, f"edges of {head}", tuple(table["target"])),
        selection_mode="single-row",
        height=300,
        column_config={
            "carried": number(format="%.3g"),
            "edge": number(format="%.3g"),
            "share of the edge": st.column_config.ProgressColumn(
                format="percent", min_value=0.0, max_value=1.0
            ),
        },
    )


def _named(view: GraphView, node: NodeId) -> str:
    return f"{view.name(node)} · {place(view.pruned.graph, node)}"


def _edge_picked(key: str, targets: tuple[str, ...]) -> None:
    """Select the node that the chosen edge leads to."""
    rows = st.session_state[key]["selection"]["rows"]
    if rows and rows[0] < len(targets):
        selection.select(NodeId.parse(targets[rows[0]]))


def with_heads(exported: bytes, heads: EdgeHeads, graph: AttributionGraph) -> bytes:
    """Return a published graph with the heads of its edges under :data:`KEY`."""
    content = json.loads(exported)
    content[KEY] = heads_json(heads, graph)
    return json.dumps(content).encode()


def _download(key: str, view: GraphView, session: Session, heads: EdgeHeads) -> None:
    """Offer the graph's published JSON with the heads in a key of its own."""
    graph = view.pruned.graph

    def content() -> bytes:
        return with_heads(resources.backend().export_graph(key, session.thresholds), heads, graph)

    try:
        st.download_button(
            "Download the graph with its heads",
            content,
            file_name=f"{slug(graph.prompt)}-heads.json",
            mime="application/json",
            key="download heads",
            on_click="ignore",
            help=f"Published JSON, which other tools read, with the heads of every edge under "
            f"“{KEY}”.",
        )
    except StoreError as error:
        st.error(plain(sentence(error)))
