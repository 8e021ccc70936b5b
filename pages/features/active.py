"""Every active feature of the open trace, with filters."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
import streamlit as st

from charts.text import percent, plural, token_text, truncate
from pages.features.open_trace import OpenTrace
from pages.features.state import change, feature_table
from pages.shared import feature_examples, resources
from pages.shared.graph_view import session_view
from pages.shared.session import heard, set_text_widget, set_widget
from pages.shared.session_state import Session
from tracer.types import FeatureId

_SHOWN: Final = 5000
_LEAST: Final = (0.0, 0.0005, 0.001, 0.005, 0.01, 0.02, 0.05)
_ALL: Final = -1


def draw(trace: OpenTrace, session: Session) -> None:
    """Draw the filters, and a row for each active feature and token."""
    _filters(trace, session)
    names = _names(trace, session)
    rows = _rows(trace, session, names)
    graph = trace.graph
    features = [FeatureId(int(graph.features[row, 0]), int(graph.features[row, 2])) for row in rows]
    table = pd.DataFrame(
        {
            "Feature": [names.get(feature) or str(feature) for feature in features],
            "Number": [str(feature) for feature in features],
            "Layer": graph.features[rows, 0],
            "Token": [
                f"{token_text(graph.tokens[int(p)])} ({int(p)})" for p in graph.features[rows, 1]
            ],
            "Activation": graph.activations[rows].astype(float),
            "Influence": [100 * trace.influence(int(row)) for row in rows],
            "In graph": trace.pruned.node_mask[rows],
        }
    )
    most = max([*table["Influence"].tolist(), 0.001])
    feature_table(
        table,
        features,
        "active features",
        {
            "Feature": st.column_config.TextColumn(width="medium"),
            "Activation": st.column_config.NumberColumn(format="%.2f"),
            "Influence": st.column_config.ProgressColumn(
                format="%.2f %%",
                min_value=0.0,
                max_value=most,
                help="Share of all paths from the graph to its target tokens that pass through "
                "this node.",
            ),
            "In graph": st.column_config.CheckboxColumn(
                help="Whether the feature is kept at the thresholds of the Trace page."
            ),
        },
        height=min(620, 38 + 35 * max(1, len(table))),
    )
    st.caption(_sentence(trace, len(features)))


def _names(trace: OpenTrace, session: Session) -> dict[FeatureId, str]:
    """Return the known names, and have the others fetched."""
    names = resources.names(session.choice, trace.pruned)
    if trace.source is None:
        return names
    feature_examples.fetch_names(session_view(session, trace.pruned), trace.key, trace.source)
    for layer, _, number in trace.graph.features.tolist():
        feature = FeatureId(layer, number)
        if feature not in names:
            name = resources.published_name(trace.source, feature)
            if name:
                names[feature] = name
    return names


def _rows(trace: OpenTrace, session: Session, names: dict[FeatureId, str]) -> np.ndarray:
    """Return the rows that the filters let through, the most influential first."""
    graph, finding = trace.graph, session.finding
    keep = np.ones(len(graph.features), np.bool_)
    if finding.position is not None:
        keep &= graph.features[:, 1] == finding.position
    if finding.layers is not None:
        first, last = finding.layers
        keep &= (graph.features[:, 0] >= first) & (graph.features[:, 0] <= last)
    influence = trace.pruned.influence[: len(graph.features)]
    if finding.least:
        keep &= influence >= finding.least * float(graph.target_weights.sum())
    words = finding.words.casefold().split()
    if words:
        keep &= np.array(
            [
                _has(words, f"{names.get(FeatureId(layer, number), '')} L{layer}/{number}")
                for layer, _, number in graph.features.tolist()
            ],
            np.bool_,
        )
    rows = np.flatnonzero(keep)
    return rows[np.argsort(-influence[rows], kind="stable")][:_SHOWN]


def _has(words: list[str], text: str) -> bool:
    return all(word in text.casefold() for word in words)


def _filters(trace: OpenTrace, session: Session) -> None:
    finding, graph = session.finding, trace.graph
    tokens, last = list(graph.tokens), graph.n_layers - 1
    active = sorted({int(position) for position in graph.features[:, 1]})
    columns = st.columns([1.4, 1.2, 1.2, 1])
    with columns[0]:
        set_text_widget("feature words", finding.words)
        st.text_input(
            "Name contains",
            key="feature words",
            on_change=heard("feature words", _changed),
            placeholder="Texas, L2/529 …",
        )
    with columns[1]:
        chosen = finding.position if finding.position in active else _ALL
        set_widget("feature token", chosen)
        st.selectbox(
            "Token",
            [_ALL, *active],
            key="feature token",
            format_func=lambda p: (
                "All tokens" if p == _ALL else f"{truncate(token_text(tokens[p]), 18)} ({p})"
            ),
            on_change=heard("feature token", _changed),
        )
    with columns[2]:
        first, final = finding.layers or (0, last)
        if last > 0:
            set_widget("feature layers", (min(first, last), min(final, last)))
            st.slider(
                "Layers",
                0,
                last,
                key="feature layers",
                on_change=heard("feature layers", _changed),
                args=(last,),
            )
    with columns[3]:
        least = max((share for share in _LEAST if share <= finding.least), default=0.0)
        set_widget("feature influence", least)
        st.selectbox(
            "Influence at least",
            _LEAST,
            key="feature influence",
            format_func=lambda share: percent(share) if share else "any",
            on_change=heard("feature influence", _changed),
        )


def _changed(last: int | None = None) -> None:
    state = st.session_state
    changes = {
        "words": str(state.get("feature words") or "").strip(),
        "least": float(state.get("feature influence") or 0.0),
        "position": None if state.get("feature token") == _ALL else state.get("feature token"),
    }
    if last is not None:
        low, high = state["feature layers"]
        changes["layers"] = None if (low, high) == (0, last) else (int(low), int(high))
    change(**changes)


def _sentence(trace: OpenTrace, shown: int) -> str:
    graph = trace.graph
    total = graph.index.n_features
    text = f"{plural(shown, 'active feature')} of {total:,}. Click one to open it."
    unexpanded = graph.n_active_features - total
    if unexpanded > 0:
        text += (
            f" {plural(unexpanded, 'more active feature')} had too little influence to be traced."
        )
    if shown == _SHOWN:
        text += f" Only the {_SHOWN:,} most influential are listed: use the filters."
    return text
