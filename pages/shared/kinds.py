"""The kinds of nodes of a graph on a page: the legend, the filters, and what the scores count."""

from __future__ import annotations

import streamlit as st

from charts.legend import LegendEntry, legend, legend_html, symbols_html
from charts.palette import palette
from tracer.graph.pruning import PrunedGraph
from tracer.interchange.notes import import_notes


def draw_legend(pruned: PrunedGraph) -> None:
    """Draw what the marks of a graph mean, and how many of each kind are kept.

    Nothing is drawn for features, errors, tokens and answers alone: the hover text names them.
    """
    if pruned.graph.generic:
        st.html(legend_html(legend(pruned), palette(st.context.theme.type)))


def draw_symbols(*graphs: PrunedGraph) -> None:
    """Draw what the marks of a merged graph mean, where one of ``graphs`` has generic nodes."""
    if any(pruned.graph.generic for pruned in graphs):
        st.html(symbols_html(graphs, palette(st.context.theme.type)))


def filterable(pruned: PrunedGraph) -> tuple[LegendEntry, ...]:
    """Return the kinds that have a filter of their own; errors of all kinds share theirs."""
    return tuple(entry for entry in legend(pruned) if entry.is_generic and not entry.is_error)


def score_notes(pruned: PrunedGraph) -> tuple[str, ...]:
    """Return what the scores of an imported graph count, and what of the file they leave out."""
    return import_notes(pruned.graph)
