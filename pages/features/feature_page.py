"""One feature's own page: its label, examples, neighbours, and what it does on a text."""

from __future__ import annotations

import math
from typing import Final

import streamlit as st

from cache import ModelChoice, NeighbourSearch
from charts.palette import Palette
from charts.text import activation_text, percent, plural, signed, token_text
from pages.features.open_trace import OpenTrace
from pages.features.state import open_feature
from pages.shared import (
    feature_card,
    feature_examples,
    label_box,
    own_text,
    progress,
    resources,
)
from pages.shared.escape import plain, sentence
from pages.shared.navigation import page_script
from pages.shared.session import read_session, update_session, visitor_id
from pages.shared.session_state import Session
from tracer.errors import TracerError
from tracer.features.cards import Example, FeatureCard
from tracer.features.names import SOURCES
from tracer.search.match import FeatureMatch, NeighbourKind
from tracer.types import FeatureId

_NEIGHBOURS: Final[dict[NeighbourKind, tuple[str, str]]] = {
    "upstream": ("Writes what it reads", "features of lower layers that write what it reads"),
    "downstream": ("Reads what it writes", "features of higher layers that read what it writes"),
    "same-decoder": ("Same output", "features that write in nearly the same direction"),
    "same-encoder": ("Same input", "features that read in nearly the same direction"),
    "opposite": ("Opposite output", "features that write in the opposite direction"),
}
_MOST_PROMPTS: Final = 6
_MOST_NEIGHBOURS: Final = 12
_TRUSTED: Final = 4.0


def draw(feature: FeatureId, session: Session, trace: OpenTrace | None, palette: Palette) -> None:
    """Draw the page of ``feature``, as the open trace's dictionary knows it."""
    source = trace.source if trace is not None and session.graph else session.choice
    graph = trace.graph if trace is not None else None
    with st.container(key="page top"):
        st.button(
            "← All features",
            key="all features",
            on_click=open_feature,
            args=(None,),
            type="tertiary",
        )
    name = resources.full_name(source, feature, graph)
    st.markdown(f"#### {plain(name.text)}")
    card = feature_examples.card(source, feature) if source is not None else None
    _facts(feature, source, card, SOURCES[name.source])
    left, right = st.columns([1.35, 1], gap="large")
    with left:
        if isinstance(source, ModelChoice):
            own_text.draw(feature, source, card, palette, unless_typed=read_session().prompt)
        if card is not None:
            feature_card.draw(card, palette)
        elif source is None:
            st.caption("No examples: this graph does not name the dictionary of its features.")
    with right:
        where = source if source is not None else graph
        if where is not None:
            label_box.draw(feature, where)
        if trace is not None:
            _in_trace(feature, trace)
        if card is not None and isinstance(source, ModelChoice):
            _prompts(feature, card)
        if isinstance(source, ModelChoice):
            _neighbours(feature, source)


def _facts(
    feature: FeatureId,
    source: resources.FeatureSource | None,
    card: FeatureCard | None,
    named: str,
) -> None:
    facts = [str(feature), named]
    if isinstance(source, ModelChoice):
        facts.append(f"{source.model}, {source.transcoders}")
    if card is not None and card.frequency:
        facts.append(f"active on {percent(card.frequency)} of tokens")
    if card is not None and card.act_max:
        facts.append(f"largest activation {activation_text(card.act_max)}")
    if card is not None and card.label is not None and card.label.precision is not None:
        facts.append(f"label covers {percent(card.label.precision)} of its activation")
        if card.label.recall is not None:
            facts.append(f"fires on {percent(card.label.recall)} of what the label names")
    text = plain(" · ".join(facts))
    url = label_box.published_page(feature, source)
    st.markdown(f":gray[{text}]" + (f" · [on Neuronpedia]({url})" if url else ""))


def _in_trace(feature: FeatureId, trace: OpenTrace) -> None:
    nodes = trace.nodes(feature)
    st.markdown("**In the open trace**")
    if not nodes:
        st.caption(plain(f"Not active on “{trace.graph.prompt}”."))
        return
    with st.container(gap=None):
        for node in nodes:
            row = trace.graph.index.row(node)
            token = token_text(trace.graph.tokens[node.position])
            activation = activation_text(float(trace.graph.activations[row]))
            label = f"{plain(token)} :gray[activation {plain(activation)} · influence "
            label += f"{plain(percent(trace.influence(row)))}]"
            if st.button(label, key=f"show {node}", type="tertiary", help="Show it in the graph"):
                update_session(selected=node)
                st.switch_page(page_script("trace"))


def _prompts(feature: FeatureId, card: FeatureCard) -> None:
    """Offer to trace the strongest examples, which end where the feature fires."""
    prompts = list(dict.fromkeys(filter(None, map(_prompt, _strongest(card)))))[:_MOST_PROMPTS]
    if not prompts:
        return
    st.markdown(
        "**Trace a prompt where it fires**",
        help="The text of an example up to its strongest token.",
    )
    with st.container(gap=None):
        for number, prompt in enumerate(prompts):
            shown = prompt if len(prompt) < 70 else f"… {prompt[-66:]}"
            if st.button(plain(shown), key=f"trace {feature} {number}", type="tertiary"):
                update_session(prompt=prompt)
                st.switch_page(page_script("trace"))


def _strongest(card: FeatureCard) -> list[Example]:
    examples = [example for group in card.groups[:1] for example in group.examples]
    return sorted(examples, key=lambda example: -max(example.activations))


def _prompt(example: Example) -> str:
    """Return an example up to its peak, without special tokens; empty if that is one word."""
    peak = max(range(len(example.tokens)), key=lambda i: example.activations[i])
    tokens = [t for t in example.tokens[: peak + 1] if not (t[:1] == "<" and t[-1:] == ">")]
    text = "".join(tokens).strip()
    return text if len(tokens) > 1 and "\ufffd" not in text else ""


def _neighbours(feature: FeatureId, source: ModelChoice) -> None:
    st.markdown(
        "**Neighbours by weights**",
        help="No prompt is involved: these are possible connections, and most of them never matter "
        f"on any text. z compares a value with all features of that layer; only those above "
        f"{_TRUSTED:g} are far outside what chance gives.",
    )
    kinds = list(_NEIGHBOURS)
    chosen = st.selectbox(
        "Kind of neighbour",
        kinds,
        index=kinds.index("upstream" if feature.layer else "downstream"),
        key=f"neighbours of {feature}",
        format_func=lambda kind: _NEIGHBOURS[kind][0],
        label_visibility="collapsed",
    )
    kind = next(kind for kind in _NEIGHBOURS if kind == chosen)
    job = resources.backend().questions.search(
        source, NeighbourSearch(feature, kind, _MOST_NEIGHBOURS), visitor_id()
    )
    progress.wait_for(job, "neighbours", "Searching")
    try:
        matches = job.result()
    except TracerError as error:
        st.warning(plain(sentence(error)))
        return
    if not matches:
        st.caption(f"There are no {_NEIGHBOURS[kind][1]}.")
        return
    with st.container(gap=None):
        for match in matches:
            _neighbour(match, source)
    weak = sum(not _is_trusted(match) for match in matches)
    note = f"{_NEIGHBOURS[kind][1][:1].upper()}{_NEIGHBOURS[kind][1][1:]}."
    if weak:
        note += f" {plural(weak, 'feature')} in grey: |z| below {_TRUSTED:g}."
    st.caption(plain(note))


def _is_trusted(match: FeatureMatch) -> bool:
    return match.z is not None and math.isfinite(match.z) and abs(match.z) >= _TRUSTED


def _neighbour(match: FeatureMatch, source: ModelChoice) -> None:
    name = plain(resources.full_name(source, match.feature).text)
    colour = "green" if match.value > 0 else "red"
    z = "" if match.z is None else f" · z {signed(match.z)}"
    facts = plain(f"{match.feature}{z}")
    value = plain(signed(match.value))
    if _is_trusted(match):
        label = f":{colour}[{value}] {name} :gray[{facts}]"
    else:
        label = f":gray[{value} {name} {facts}]"
    st.button(
        label,
        key=f"neighbour {match.feature}",
        type="tertiary",
        on_click=open_feature,
        args=(match.feature,),
    )
