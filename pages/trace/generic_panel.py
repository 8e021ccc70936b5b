"""What the panel shows of a node that only other tools compute, and of QK tracing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pandas as pd
import streamlit as st

from charts.graph_view import GraphView
from charts.text import place
from pages.shared.escape import plain
from tracer.graph.generic import QkShare, is_error_kind
from tracer.graph.kinds import kind_name
from tracer.types import COMPUTED_KINDS, NodeId

_QK: Final = (
    "QK tracing: which pairs of a source on the query side and a source on the key side made this "
    "node attend where it does. Only the strongest are in the file."
)


def draw(view: GraphView, node: NodeId) -> None:
    """Say what a generic node is, and draw the pairs of its QK tracing."""
    if node.kind not in COMPUTED_KINDS:
        text = f"This {kind_name(node.kind)} was computed by the tool that wrote the graph. "
        text += (
            "It counts as an error in the scores."
            if is_error_kind(node.kind)
            else "It takes part in influence, pruning and scores."
        )
        st.caption(plain(text))
    tracing = view.pruned.graph.qk.tracings.get(node)
    if tracing is None or not tracing.pairs:
        return
    st.markdown("###### Attention by pairs", help=_QK)
    st.dataframe(
        pd.DataFrame(
            {
                "attribution": [pair.attribution for pair in tracing.pairs],
                "query": [source_name(view, pair.query) for pair in tracing.pairs],
                "key": [source_name(view, pair.key) for pair in tracing.pairs],
            }
        ),
        key=f"qk pairs {node}",
        hide_index=True,
        column_config={"attribution": st.column_config.NumberColumn(format="%.3g", width=80)},
    )


def qk_lists(view: GraphView, node: NodeId) -> list[dict[str, Any]]:
    """Return what adds to a node's attention on each side, as lists of neighbours."""
    tracing = view.pruned.graph.qk.tracings.get(node)
    if tracing is None:
        return []
    return [
        _list(view, "Query side", "adds to what it looks for", tracing.queries),
        _list(view, "Key side", "adds to where it attends", tracing.keys),
    ]


def _list(view: GraphView, title: str, note: str, shares: Sequence[QkShare]) -> dict[str, Any]:
    total = sum(abs(share.attribution) for share in shares) or 1.0
    index = view.pruned.graph.index
    rows = [
        {
            "id": str(share.node),
            "name": source_name(view, share.node),
            "where": place(view.pruned.graph, share.node)
            + ("" if share.node in index else ", pruned"),
            "weight": round(share.attribution, 5),
            "share": round(abs(share.attribution) / total, 4),
        }
        for share in sorted(shares, key=lambda share: -abs(share.attribution))
    ]
    return {"title": title, "note": note, "rows": rows}


def source_name(view: GraphView, node: NodeId) -> str:
    """Return the name of a node of QK tracing, which may have been pruned from the graph."""
    graph = view.pruned.graph
    if node in graph.index:
        return view.name(node)
    outside = next((entry for entry in graph.qk.outside if entry.node == node), None)
    if outside is not None and outside.label.strip():
        return outside.label.strip()
    if node.kind == "feature":
        return view.names.get(node.feature) or str(node.feature)
    if node.kind in COMPUTED_KINDS or node.index < 0:
        return f"{kind_name(node.kind)} of layer {node.layer}"
    return f"{kind_name(node.kind)} {node.index}"
