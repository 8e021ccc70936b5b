"""The layout of the Compare page: two graphs, how they are aligned, and what differs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, get_args

import streamlit as st

from cache import Job, ModelChoice, StoreError, TraceRequest
from charts.comparison_drawing import comparison_drawing
from charts.comparison_views import (
    SIDES,
    Name,
    comparison_sentence,
    comparison_table,
    difference_figure,
    edge_sentence,
    side_colours,
)
from charts.palette import Palette, palette
from charts.text import node_name, percent, plural, token_text
from pages.shared import kinds, progress, prompt_bar, resources, stored_graph
from pages.shared.escape import plain, sentence
from pages.shared.graph_component import draw_chart, draw_graph
from pages.shared.graph_payloads import drawing_payload
from pages.shared.model_choices import sets_of
from pages.shared.navigation import page_script
from pages.shared.session import (
    heard,
    hidden_text_box,
    mirror_to_url,
    read_session,
    set_widget,
    update_session,
    visitor_id,
)
from pages.shared.session_state import Session
from tracer.catalog.embedded import gallery
from tracer.errors import TracerError
from tracer.graph.comparison import (
    Alignment,
    ComparedNode,
    Comparison,
    compare_graphs,
    same_dictionary,
)
from tracer.graph.graph import AttributionGraph
from tracer.graph.pruning import PrunedGraph
from tracer.interventions.scenario import Scenario
from tracer.interventions.transfer import difference_edits
from tracer.types import FeatureId

_SIZE: Final = "compare size"
_ALIGNMENTS: Final[dict[Alignment, str]] = {
    "token": "by token",
    "end": "from the end",
    "feature": "by feature",
}


def draw() -> None:
    """Draw the page for the current session."""
    job = prompt_bar.traced()
    mirror_to_url()
    if job is None:
        return
    session = read_session()
    _choices(session)
    mirror_to_url()
    session = read_session()
    compared = session.compared
    left_choice, right_choice = session.choice, _right_choice(session)
    if session.graph:
        left: PrunedGraph | None = resources.pruned_graph(job.key, session.thresholds)
    else:
        left = _traced(session.prompt, left_choice, compared.left_target, "Left")
    if compared.graph:
        right = _stored_graph(compared.graph)
    else:
        right = _traced(_right_prompt(session), right_choice, compared.right_target, "Right")
    if left is None or right is None:
        return
    names = (resources.names(left_choice, left), resources.names(right_choice, right))
    by_name = not same_dictionary(left.graph, right.graph)
    comparison = compare_graphs(left, right, compared.alignment, names if by_name else None)
    theme = palette(st.context.theme.type)
    _summary(comparison, by_name, theme)
    name = _naming(comparison, names)
    _merged(comparison, name, (left, right), names)
    imported = any(resources.is_imported(side.graph) for side in (left, right))
    _send(comparison, not by_name and not imported)
    st.markdown("#### Largest differences in influence")
    figure = difference_figure(comparison, name, theme)
    draw_chart(figure, "differences")
    _table(comparison, name)


def _merged(
    comparison: Comparison,
    name: Name,
    sides: tuple[PrunedGraph, PrunedGraph],
    names: tuple[dict[FeatureId, str], dict[FeatureId, str]],
) -> None:
    """Draw the merged graph; a click lights a node's edges without asking the server."""
    parts = tuple(
        (side.graph.prompt, str(side.graph.provenance), side.thresholds, tuple(known.items()))
        for side, known in zip(sides, names, strict=True)
    )
    size: tuple[float, float] = st.session_state.get(_SIZE, (1000.0, 640.0))
    drawing = comparison_drawing(comparison, name)
    key = f"{sides[0].graph.prompt} | {sides[1].graph.prompt}"
    payload = drawing_payload("compare", key, (parts, comparison.alignment), drawing, size)
    draw_graph("compare", payload, {"selected": None, "pinned": [], "serial": 0.0}, _resized)
    kinds.draw_symbols(*sides)


def _resized(event: dict[str, Any]) -> None:
    width, height = event.get("width"), event.get("height")
    if isinstance(width, int | float) and isinstance(height, int | float):
        st.session_state[_SIZE] = (float(width), float(height))


def _right_prompt(session: Session) -> str:
    """Return the chosen prompt, else a related prompt of the gallery, else the left prompt."""
    if session.compared.prompt:
        return session.compared.prompt
    entries = gallery(session.choice.model)
    entry = next((entry for entry in entries if entry.prompt == session.prompt), None)
    related = [e.prompt for e in entries if entry and e.group == entry.group and e != entry]
    return related[0] if related else session.prompt


def _right_choice(session: Session) -> ModelChoice:
    chosen = session.compared.transcoders
    known = chosen in sets_of(session.choice)
    transcoders = chosen if known else session.choice.transcoders
    return replace(session.choice, transcoders=transcoders)


def _choices(session: Session) -> None:
    right_prompt, right = _right_prompt(session), _right_choice(session)
    prompts = list(
        dict.fromkeys([right_prompt, *(e.prompt for e in gallery(session.choice.model))])
    )
    set_widget("compared prompt", right_prompt)
    with_prompt, with_graph = st.columns([1.6, 1], gap="medium")
    with_prompt.selectbox(
        "Compare with",
        prompts,
        key="compared prompt",
        accept_new_options=True,
        on_change=heard("compared prompt", _changed),
        args=("prompt", "compared prompt"),
        help="Choose a prompt, or type one and press Enter.",
    )
    with with_graph:
        _choose_stored(session)
    how, which = st.columns([1.6, 1], gap="medium")
    if not session.compared.graph:
        set_widget("compared transcoders", right.transcoders)
        which.segmented_control(
            "Transcoders for the right graph",
            sets_of(session.choice),
            required=True,
            key="compared transcoders",
            on_change=heard("compared transcoders", _changed),
            args=("transcoders", "compared transcoders"),
        )
    set_widget("alignment", session.compared.alignment)
    how.segmented_control(
        "Alignment",
        get_args(Alignment),
        required=True,
        key="alignment",
        format_func=lambda alignment: _ALIGNMENTS[alignment],
        on_change=heard("alignment", _changed),
        args=("alignment", "alignment"),
        help="How positions of the two prompts are matched. By token: equal tokens share a column. "
        "From the end: columns are counted from the last token. By feature: a feature counts once, "
        "at whatever positions it is active.",
    )
    if session.graph or session.compared.graph:
        return  # the targets of a stored graph are fixed
    expanded = _has_targets(session)
    with st.expander("Explain a specific next token", expanded=expanded, key="compared targets"):
        sides = st.columns(2, gap="medium")
        for column, side in zip(sides, ("left", "right"), strict=True):
            box = hidden_text_box(f"target {side}", getattr(session.compared, f"{side}_target"))
            column.text_input(
                f"{side.capitalize()} target token",
                box.text,
                key=box.key,
                placeholder="for example: Sacramento",
                on_change=_changed,
                args=(f"{side}_target", box.key),
                help="Empty: the most likely next tokens.",
            )


def _choose_stored(session: Session) -> None:
    """Draw the choice of an imported graph for the right side, if there are any."""
    try:
        stored = resources.backend().stored()
    except StoreError as error:
        st.warning(plain(sentence(error)))
        return
    entries = {entry.key: entry for entry in stored if entry.key != session.graph}
    imported = [key for key, entry in entries.items() if entry.imported]
    chosen = session.compared.graph
    if not imported and not chosen:
        return
    set_widget("compared graph", chosen)
    st.selectbox(
        "Or with an imported graph",
        ["", *dict.fromkeys([*([chosen] if chosen else []), *imported])],
        key="compared graph",
        format_func=lambda key: (
            (entries[key].title or entries[key].prompt) if key in entries else key or "none"
        ),
        on_change=heard("compared graph", _changed),
        args=("graph", "compared graph"),
    )


def _stored_graph(key: str) -> PrunedGraph | None:
    """Return a graph of the library, pruned as it is first shown."""
    pruned = stored_graph.pruned(key)
    if pruned is None:
        st.error("Right: this graph is no longer in the library. Choose another one above.")
    return pruned


def _has_targets(session: Session) -> bool:
    return bool(session.compared.left_target or session.compared.right_target)


def _changed(name: str, key: str) -> None:
    value = (st.session_state[key] or "").strip()
    if name == "prompt" and not value:
        return
    change: dict[str, Any] = {name: value}
    if name == "prompt":
        change["graph"] = ""
    update_session(compared=replace(read_session().compared, **change))


def _traced(prompt: str, choice: ModelChoice, target: str, side: str) -> PrunedGraph | None:
    """Return one side's pruned graph; draw the error and return None if it cannot be traced."""
    error: TracerError | None = None
    explain = read_session().explain
    for targets in ((f" {target}",), (target,)) if target else (None,):
        job: Job[AttributionGraph] = resources.backend().trace(
            TraceRequest(prompt, choice, targets, force=explain.forces(prompt)), visitor_id()
        )
        progress.wait_for(job, f"compare {side}", side, finish=True)
        try:
            job.result()
        except TracerError as refused:
            error = error or refused
            continue
        return resources.pruned_graph(job.key, read_session().thresholds)
    st.error(plain(sentence(f"{side}: {error}")))
    return None


def _summary(comparison: Comparison, by_name: bool, theme: Palette) -> None:
    """Draw both prompts with their next tokens, the legend, and how much the graphs share."""
    sides = st.columns(2, gap="medium")
    pairs = (("Left", comparison.left), ("Right", comparison.right))
    for column, (label, pruned) in zip(sides, pairs, strict=True):
        graph = pruned.graph
        first = graph.next_tokens[0]
        column.markdown(
            f":gray[{label}] {plain(graph.prompt)} **{plain(token_text(first.token))}** "
            f":gray[{percent(first.probability)}]"
        )
    text = f"{comparison_sentence(comparison)} {edge_sentence(comparison)}"
    if by_name:
        text += " The graphs use different transcoders, so features are matched by their label."
    dots = "".join(
        f'<span style="color:{colour};font-size:1.1em">●</span> {SIDES[side]} &nbsp; '
        for side, colour in side_colours(theme).items()
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.html(f'<div style="font-size:0.9rem;white-space:nowrap">{dots}</div>', width="content")
        st.caption(plain(text), width="stretch")


def _naming(
    comparison: Comparison, names: tuple[dict[FeatureId, str], dict[FeatureId, str]]
) -> Name:
    def name(node: ComparedNode) -> str:
        pruned, side = (comparison.left, 0) if node.left else (comparison.right, 1)
        return node_name(pruned.graph, (node.left or node.right)[0], names[side])

    return name


def _send(comparison: Comparison, possible: bool) -> None:
    """Offer to run the left prompt with the features of the right graph."""
    if not possible:
        return
    edits, dropped = difference_edits(comparison, left_factor=0.0)
    if not edits:
        st.caption("The two graphs have no differing features to test.")
        return
    answer = token_text(comparison.right.graph.next_tokens[0].token)
    scenario = Scenario(f"Difference to “{answer}”", edits)
    with st.container(horizontal=True, vertical_alignment="center"):
        sent = st.button(
            "Test the differences in Interventions",
            key="send differences",
            type="primary",
            on_click=update_session,
            kwargs={"scenarios": (*read_session().scenarios, scenario)},
            help="Adds a scenario that switches off the features found only in the left graph and "
            "sets those found only in the right graph to their activations there. Does the left "
            "prompt then get the right prompt's answer?",
        )
        if dropped:
            left_out = f"{plural(dropped, 'feature')} left out"
            st.caption(f"{left_out}: the left prompt has no token in their column.")
    if sent:
        st.switch_page(page_script("interventions"))


def _table(comparison: Comparison, name: Name) -> None:
    table = comparison_table(comparison, name)
    share = st.column_config.ProgressColumn
    number = st.column_config.NumberColumn
    st.dataframe(
        table,
        hide_index=True,
        height=420,
        key="compared features",
        column_config={
            "activation left": number(format="%.2f"),
            "activation right": number(format="%.2f"),
            "influence left": share(format="percent", min_value=0.0, max_value=1.0),
            "influence right": share(format="percent", min_value=0.0, max_value=1.0),
        },
    )
    st.download_button(
        "Download as CSV",
        table.to_csv(index=False),
        "comparison.csv",
        "text/csv",
        on_click="ignore",
    )
