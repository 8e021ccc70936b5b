"""Search the complete dictionary: by label, by example, by promoted token, by a text."""

from __future__ import annotations

from typing import Any, Final, get_args

import pandas as pd
import streamlit as st

from cache import Job, ModelChoice, TextSearch, TokenSearch
from charts.text import percent, plural, signed, token_text
from pages.features.open_trace import OpenTrace
from pages.features.state import change, feature_table
from pages.shared import progress, resources
from pages.shared.escape import plain, sentence
from pages.shared.finding import By
from pages.shared.model_choices import short
from pages.shared.session import heard, read_session, set_text_widget, set_widget, visitor_id
from pages.shared.session_state import Session
from tracer.errors import TracerError
from tracer.features.cards import Label
from tracer.search.match import FeatureMatch, PeakDetail, TextDetail

_LIMIT: Final = 60
_TITLES: Final[dict[By, str]] = {
    "label": "Label",
    "example": "Word in examples",
    "promoted": "Token it promotes",
    "suppressed": "Token it suppresses",
    "text": "Your own text",
}
_HINTS: Final[dict[By, tuple[str, str]]] = {
    "label": (
        "about Texas",
        "Finds labels with all of these words. -word excludes, “two words” in quotes follow each "
        "other, L3/417 is the feature with that number.",
    ),
    "example": (
        "Dallas",
        "Finds features whose strongest examples peak on this word. The first search of a large "
        "dictionary reads all its examples.",
    ),
    "promoted": (
        " Austin",
        "Finds features that raise the logit of this token through their direct path to the "
        "output, by their weights alone.",
    ),
    "suppressed": (
        " Austin",
        "Finds features that lower the logit of this token through their direct path to the "
        "output, by their weights alone.",
    ),
    "text": (
        "The capital of the state containing Dallas is",
        "Runs the model on this text and finds the features that fire most on it.",
    ),
}


def draw(session: Session, trace: OpenTrace | None) -> None:
    """Draw the search box and its results."""
    source = trace.source if trace is not None and session.graph else session.choice
    finding = session.finding
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        set_widget("search by", finding.by)
        st.selectbox(
            "Search by",
            get_args(By),
            key="search by",
            format_func=_TITLES.__getitem__,
            on_change=heard("search by", _by_chosen),
            width=210,
        )
        set_text_widget("search for", finding.query)
        placeholder, hint = _HINTS[finding.by]
        st.text_input(
            _TITLES[finding.by],
            key="search for",
            placeholder=placeholder,
            help=hint,
            on_change=heard("search for", _typed),
        )
    if source is None:
        st.info(
            "This graph does not name the dictionary its features are from, so there is nothing to "
            "search. Its own features are listed under “Active in this trace”."
        )
        return
    where = source.model if isinstance(source, ModelChoice) else "this graph's dictionary"
    if not finding.query.strip():
        kinds = "its labels, examples, weights, or by what fires on a text"
        st.info(plain(f"Search all features of {short(where)}: by {kinds}."))
        return
    try:
        matches = _matches(source, finding.by, finding.query)
    except TracerError as error:
        st.warning(plain(sentence(error)))
        return
    if not matches:
        st.info(plain(f"No feature matches “{finding.query}”."))
        return
    _results(matches, source, finding.by)


def _by_chosen() -> None:
    change(by=st.session_state["search by"], query="")


def _typed() -> None:
    change(query=str(st.session_state["search for"] or ""))


def _matches(source: resources.FeatureSource, by: By, query: str) -> tuple[FeatureMatch, ...]:
    questions = resources.backend().questions
    if by == "label":
        return _with_own_labels(source, query)
    if not isinstance(source, ModelChoice):
        raise TracerError(
            "the model of this graph is not open: close the graph and choose the model on the "
            "Models page to search by examples, weights or text"
        )
    job: Job[tuple[FeatureMatch, ...]]
    if by == "example":
        job = questions.by_example(source, query, _LIMIT, visitor_id())
    elif by == "text":
        job = questions.search(source, TextSearch(query, _LIMIT), visitor_id())
    else:
        effect: Any = "promote" if by == "promoted" else "suppress"
        job = questions.search(source, TokenSearch(query, effect, _LIMIT), visitor_id())
        return _token_matches(source, job, query, effect)
    progress.wait_for(job, "feature search", "Searching")
    return job.result()


def _token_matches(
    source: ModelChoice, job: Job[tuple[FeatureMatch, ...]], query: str, effect: Any
) -> tuple[FeatureMatch, ...]:
    """Return the result for a token as typed or, if that is not a token, with a leading space."""
    progress.wait_for(job, "feature search", "Searching")
    try:
        return job.result()
    except TracerError:
        if query.startswith(" "):
            raise
    spaced = TokenSearch(f" {query}", effect, _LIMIT)
    second = resources.backend().questions.search(source, spaced, visitor_id())
    progress.wait_for(second, "feature search", "Searching")
    try:
        return second.result()
    except TracerError:
        return job.result()  # its message names the token as it was typed


def _with_own_labels(source: resources.FeatureSource, query: str) -> tuple[FeatureMatch, ...]:
    """Return the features that visitors labelled so, then those labelled by the dictionary."""
    words = query.casefold().split()
    own = {
        feature: FeatureMatch(feature, 1.0, detail=Label(label, None))
        for feature, label in resources.own_labels(source).items()
        if all(word in label.casefold() for word in words)
    }
    try:
        others = resources.backend().questions.by_label(source, query, _LIMIT)
    except TracerError:
        if not own:
            raise
        others = ()
    return (*own.values(), *(match for match in others if match.feature not in own))


def _results(matches: tuple[FeatureMatch, ...], source: resources.FeatureSource, by: By) -> None:
    rows = []
    for match in matches:
        name = resources.full_name(source, match.feature)
        row: dict[str, Any] = {
            "Feature": name.text,
            "Number": str(match.feature),
            "Layer": match.feature.layer,
        }
        rows.append(row | _measured(match, by))
    feature_table(
        pd.DataFrame(rows),
        [match.feature for match in matches],
        f"found by {by} in {read_session().choice.model}",
        {
            "Feature": st.column_config.TextColumn(width="medium"),
            "z": st.column_config.NumberColumn(
                format="%.1f",
                help="Standard deviations from the mean of all features of the same layer. Below 4 "
                "it may be chance.",
            ),
            "Activation": st.column_config.NumberColumn(format="%.2f"),
        },
        height=min(620, 38 + 35 * len(rows)),
    )
    count = plural(len(matches), "feature")
    text = f"The best {count}" if len(matches) >= _LIMIT else count
    st.caption(f"{text}. Click one to open it.")


def _measured(match: FeatureMatch, by: By) -> dict[str, Any]:
    """Return what the search measured, as columns."""
    detail = match.detail
    if isinstance(detail, PeakDetail):
        share = f"{detail.n_peaks} of {detail.n_examples}"
        return {"Examples that peak on it": share, "Activation": detail.activation}
    if isinstance(detail, TextDetail):
        return {"Fires most at": token_text(detail.token), "Activation": match.value}
    if by == "label":
        share = percent(match.value) if match.value and isinstance(detail, Label) else ""
        return {"Label covers": share if detail and detail.precision is not None else ""}
    return {"Direct effect on the logit": signed(match.value), "z": match.z}
