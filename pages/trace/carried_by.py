"""Which attention heads carried a node's input, and why one of them looks where it looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import streamlit as st

from cache import WhoCarried, WhyLook, WithoutPairs
from charts.attention_figures import pairs_figure, pattern_figure, strip_figure
from charts.graph_view import GraphView, Neighbour
from charts.heads import (
    bead_sentence,
    carrier_rows,
    check_sentence,
    check_table,
    edge_beads,
    head_of,
    hop_sentence,
    part_rows,
    source_name,
)
from charts.palette import Palette
from charts.text import percent, place, signed, token_text
from pages.shared import progress, resources, selection
from pages.shared.escape import plain, sentence
from pages.shared.graph_component import draw_beads, draw_chart, draw_neighbours
from pages.shared.heads_state import HeadsShown, Versus
from pages.shared.session import heard, read_session, set_widget, update_session, visitor_id
from pages.shared.session_state import Session
from tracer.attention.summaries import HeadLook, NodeHeads
from tracer.catalog.embedded import embedded
from tracer.errors import TracerError
from tracer.graph.graph import AttributionGraph
from tracer.types import FeatureId, NodeId

_COMPLETE: Final = "everything it reads"
_SCORE: Final = "nothing"
_REST: Final = "all other tokens"
_SINK: Final = "its sink"
_REMOVED: Final = 3
_OFFERED: Final = 40
"""Edges to choose from."""
_MOST_EDGES: Final = 400
"""As many as the graph draws of a node's own edges."""
_CARRIED_HELP: Final = (
    "A head is named by its layer and number. Each one counts for what it moved last, before the "
    "node read it: direct and all heads add up to the input. Click a head to see why it looks "
    "where it looks. In the graph, an edge has a bead if one head carries more than half of it."
)


def draw(key: str, view: GraphView, node: NodeId, session: Session, palette: Palette) -> None:
    """Draw what carried the input of a node, and the open head under it."""
    graph = view.pruned.graph
    if node.kind in ("error", "token"):
        return
    if resources.is_imported(graph):
        st.caption("Attention is not split by heads: this graph was imported without its model.")
        return
    is_on = session.heads.carried
    if is_on is None:  # another model may take as long as a trace
        is_on = embedded(session.choice.model) is not None
    set_widget("carried", is_on)
    st.toggle(
        "Carried by attention heads",
        key="carried",
        on_change=heard("carried", _switched),
        help=_CARRIED_HELP,
    )
    if not is_on:
        return
    job = resources.backend().attention.node(key, WhoCarried(node), session.choice, visitor_id())
    progress.wait_for(job, "carried by", "Following attention")
    try:
        answer = job.result()
    except TracerError as error:
        st.error(plain(sentence(error)))
        return
    inputs = view.inputs(node, _MOST_EDGES)
    row = _edge(answer, view, node, inputs[:_OFFERED])
    lists = [
        {
            "title": "Carried by",
            "note": "click a head to open it",
            "rows": carrier_rows(answer, row, graph.tokens),
        }
    ]
    draw_neighbours("trace", lists, "", _head_event, name="carriers")
    sentences = [hop_sentence(answer.hops[row])]
    if not (session.heads.as_view or session.as_table):
        drawn = [entry.node for entry in inputs if entry.is_drawn]
        beads = edge_beads(answer, drawn)
        draw_beads("trace", str(node), beads)
        sentences.append(bead_sentence(len(beads), len(drawn)))
    st.caption(plain(" ".join(filter(None, sentences))))
    draw_head(key, view, session, palette)


def _switched() -> None:
    shown = read_session().heads
    is_on = st.session_state.get("carried")
    if is_on is not None:
        update_session(heads=replace(shown, carried=bool(is_on)))


def _edge(answer: NodeHeads, view: GraphView, node: NodeId, inputs: tuple[Neighbour, ...]) -> int:
    """Draw the choice of one edge and return its row in the answer."""
    options = {_COMPLETE: 0}
    for entry in inputs:
        row = answer.row(entry.node)
        if row is not None:
            name = f"{entry.name} · {place(view.pruned.graph, entry.node)} · {signed(entry.weight)}"
            options.setdefault(name, row)
    chosen = st.selectbox("What was carried", list(options), key=f"edge into {node}")
    return options.get(chosen or _COMPLETE, 0)


def graph_event(event: dict[str, Any]) -> None:
    """Open the head whose bead was clicked in the graph; hand anything else on."""
    if event["type"] == "head":
        _open_named(event.get("id"))
    else:
        selection.graph_event(event)


def _head_event(event: dict[str, Any]) -> None:
    """Open or close the head that was clicked; ignore anything else."""
    if event["type"] == "select":
        _open_named(event.get("id"))


def _open_named(text: object) -> None:
    head = head_of(text)
    if head is not None:
        open_head(head)


def open_head(head: tuple[int, int] | None) -> None:
    """Show why a head looks where it looks, from the selected node's token; close it for None."""
    session = read_session()
    shown = session.heads
    if head is None or head == shown.head:
        update_session(heads=replace(shown, head=None, key=None, versus=None))
        return
    query = session.selected.position if session.selected is not None else -1
    update_session(heads=replace(shown, head=head, query=query, key=None, versus=None))


def draw_head(key: str, view: GraphView, session: Session, palette: Palette) -> None:
    """Draw why the open head looks where it looks; nothing if none is open."""
    shown, graph = session.heads, view.pruned.graph
    if shown.question is None or resources.is_imported(graph):
        return
    job = resources.backend().attention.look(key, shown.question, session.choice, visitor_id())
    progress.wait_for(job, "head", "Following attention")
    try:
        look = job.result()
    except TracerError as error:
        st.error(plain(sentence(error)))
        st.button("Close", key="close head", on_click=open_head, args=(None,))
        return
    with st.container(key="head panel"):
        _title(look)
        _choices(look, shown)
        figure = strip_figure(look, palette)
        draw_chart(figure, "strip", _key_clicked)
        st.caption(_sentence(look))
        _why(look, graph, _names(session), palette)
        _test(key, look, session)
        with st.popover("Attention from every token", type="tertiary"):
            draw_chart(pattern_figure(look, palette), "pattern")


def _title(look: HeadLook) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key="head title"):
        query, key = (token_text(look.tokens[at]) for at in (look.query, look.key))
        text = f"{look.label} looks from “{query}” at “{key}”"
        st.markdown(f"##### {plain(text)}", width="stretch")
        st.button(
            "✕", key="close head", on_click=open_head, args=(None,), type="tertiary",
            help="Close this head",
        )  # fmt: skip


def _choices(look: HeadLook, shown: HeadsShown) -> None:
    """Draw the choice of the query, and of what the key is compared with."""
    tokens = _positions(look, range(len(look.tokens)))
    others: dict[str, Versus] = {_SCORE: None}
    competitors = [int(at) for at in look.visible if at != look.key]
    competitors.sort(key=lambda at: -float(look.pattern[at]))
    others.update(_positions(look, competitors))
    if competitors:
        others[_REST] = "rest"
    if look.sink > 0:
        others[_SINK] = "sink"
    left, right = st.columns(2)
    set_widget("head query", next(name for name, at in tokens.items() if at == look.query))
    left.selectbox(
        "From",
        list(tokens),
        key="head query",
        on_change=heard("head query", _query_chosen),
        args=(tokens,),
    )
    chosen = next((name for name, other in others.items() if other == look.versus), _SCORE)
    set_widget("head versus", chosen)
    right.selectbox(
        "Why not at",
        list(others),
        key="head versus",
        on_change=heard("head versus", _versus_chosen),
        args=(others,),
        help="The difference of two scores is the logarithm of the ratio of their attention.",
    )


def _positions(look: HeadLook, positions: Any) -> dict[str, int]:
    return {
        f"{token_text(look.tokens[at])} · {at} · {percent(float(look.pattern[at]))}"
        if at <= look.query
        else f"{token_text(look.tokens[at])} · {at}": int(at)
        for at in positions
    }


def _query_chosen(tokens: dict[str, int]) -> None:
    name = st.session_state.get("head query")
    if name in tokens:
        changed = replace(read_session().heads, query=tokens[name], key=None, versus=None)
        update_session(heads=changed)


def _versus_chosen(others: dict[str, Versus]) -> None:
    name = st.session_state.get("head versus")
    if name in others:
        update_session(heads=replace(read_session().heads, versus=others[name]))


def _key_clicked(position: float) -> None:
    """Explain the token whose bar was clicked."""
    if position >= 0:
        shown = read_session().heads
        versus = None if shown.versus == int(position) else shown.versus
        update_session(heads=replace(shown, key=int(position), versus=versus))


def _sentence(look: HeadLook) -> str:
    key, share = token_text(look.tokens[look.key]), percent(float(look.pattern[look.key]))
    text = f"“{key}” gets {share} of its attention"
    if look.versus is None:
        text += f", score {signed(look.score)}."
    elif isinstance(look.versus, int):
        other = token_text(look.tokens[look.versus])
        text += f"; its score is {signed(look.score)} above that of “{other}”."
    else:
        text += f"; its score is {signed(look.score)} above the mean of the other tokens."
    if look.sink > 0:
        text += f" {percent(look.sink)} goes to its sink."
    if look.slope < 0.5:
        text += f" The soft cap passes {percent(look.slope)} of a small change."
    return plain(text)


def _why(
    look: HeadLook,
    graph: AttributionGraph,
    name_of: Callable[[FeatureId], str | None],
    palette: Palette,
) -> None:
    lists = [
        {
            "title": "What it looks for",
            "note": f"at “{token_text(look.tokens[look.query])}”, the query",
            "rows": part_rows(look.looks_for, look.tokens, name_of),
        },
        {
            "title": "What it found",
            "note": f"at “{token_text(look.tokens[look.key])}”, the key",
            "rows": part_rows(look.finds, look.tokens, name_of),
        },
    ]
    draw_neighbours("trace", lists, "", selection.graph_event, name="why")

    def named(source: Any) -> str:
        name, _ = source_name(source, look.tokens, name_of)
        return name if source.kind != "feature" else f"{name} L{source.layer}/{source.index}"

    pairs = [(named(pair.query), named(pair.key), pair.weight) for pair in look.pairs]
    st.markdown("**Top pairs** :gray[query × key, parts of the score]")
    draw_chart(pairs_figure(pairs, palette), "pairs")
    st.caption(
        plain(" · ".join(f"{query} × {key} {signed(w)}" for query, key, w in pairs[:3])),
    )


def _test(key: str, look: HeadLook, session: Session) -> None:
    """Draw a test of the explanation: take the strongest pairs out and run the model."""
    name = f"test {look.label} {look.query} {look.key}"
    st.toggle(
        f"Take the {_REMOVED} strongest pairs out and run the model",
        key=name,
        help="The pairs are taken out of the score before the softmax. Next to it: as many random "
        "pairs of this head, and the same change of the score at other heads.",
    )
    if not st.session_state.get(name):
        return
    question = WithoutPairs(WhyLook(look.layer, look.head, look.query, look.key), _REMOVED)
    job = resources.backend().attention.check(key, question, session.choice, visitor_id())
    progress.wait_for(job, "pairs out", "Running the model")
    try:
        check = job.result()
    except TracerError as error:
        st.error(plain(sentence(error)))
        return
    st.caption(plain(check_sentence(check, _REMOVED)))
    table = check_table(check)
    st.dataframe(
        table,
        key="pairs out",
        hide_index=True,
        column_config={table.columns[1]: st.column_config.NumberColumn(format="%.4f")},
    )


def _names(session: Session) -> Callable[[FeatureId], str | None]:
    return lambda feature: resources.feature_name(session.choice, feature)
