"""Convert the session to query parameters of the address bar, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Final, get_args
from urllib.parse import quote, unquote

from cache import Annotations, Dtype, ModelChoice, scenarios_from_json, scenarios_to_json
from charts.graph_view import DENSE, GraphFilter
from pages.shared.explaining import explain_from_query, explain_to_query
from pages.shared.finding import finding_from_query, finding_to_query
from pages.shared.heads_state import heads_from_query, heads_to_query
from pages.shared.link_problems import usable_prompt
from pages.shared.model_choices import sets_of
from pages.shared.session_state import (
    LARGEST_FACTOR,
    MOST_GENERATED,
    MOST_RANDOM,
    Compared,
    RunOptions,
    Session,
)
from tracer.catalog.embedded import EMBEDDED_SETS, embedded
from tracer.errors import ThresholdError
from tracer.graph.comparison import Alignment
from tracer.graph.generic import MAX_KIND
from tracer.types import NodeId, Thresholds

_LONGEST_KEY: Final = 64
_LONGEST_NAME: Final = 400
_MOST_HIDDEN: Final = 40
_KIND: Final = "kind:"
"""Before the name of a hidden kind of generic nodes, which could be any text."""
_COMPARED: Final = {
    "prompt": "with",
    "transcoders": "with_transcoders",
    "alignment": "align",
    "left_target": "explain",
    "right_target": "with_explain",
    "graph": "with_graph",
}
"""Query parameters by field of `Compared`."""


def to_query(session: Session) -> dict[str, str]:
    """Return what differs from a fresh session, as query parameters."""
    fresh, query = Session(), {"prompt": session.prompt}
    if session.graph:
        query["graph"] = session.graph
    if session.look:
        query["look"] = session.look
    for name, value in asdict(session.choice).items():
        if value != getattr(fresh.choice, name):
            query[name] = value
    always = bool(session.graph) and not session.as_stored  # without them, the graph's own apply
    if always or session.thresholds.node != fresh.thresholds.node:
        query["nodes"] = f"{session.thresholds.node:g}"
    if always or session.thresholds.edge != fresh.thresholds.edge:
        query["edges"] = f"{session.thresholds.edge:g}"
    shown = session.filter
    hidden = [] if shown.errors else ["errors"]
    hidden += ["dense"] if shown.max_density < 1 else []
    hidden += ["positive"] if shown.negative_only else []
    hidden += [f"{_KIND}{quote(kind, safe='')}" for kind in sorted(shown.hidden_kinds)]
    if hidden:
        query["hide"] = ",".join(hidden)
    if shown.layers is not None:
        query["layers"] = "{}-{}".format(*shown.layers)
    if session.as_table:
        query["view"] = "table"
    query |= heads_to_query(session.heads)
    if session.selected is not None:
        query["node"] = str(session.selected)
    if session.edits:
        query["off"] = ",".join(
            f"{node}*{factor:g}" if factor else str(node) for node, factor in session.edits
        )
    if session.scenarios:
        query["scenarios"] = scenarios_to_json(session.scenarios)
    if session.annotations:
        query["marks"] = session.annotations.to_json()
    if session.explain.forces(session.prompt):
        query["force"] = "1"
    query |= explain_to_query(session.explain) | finding_to_query(session.finding)
    for name, value in asdict(session.compared).items():
        if value != getattr(fresh.compared, name):
            query[_COMPARED[name]] = value
    for name, value in asdict(session.run).items():
        if value != getattr(fresh.run, name):
            query[name] = f"{value:g}" if isinstance(value, float) else str(value)
    return query


def from_query(query: Mapping[str, str]) -> Session:
    """Invert :func:`to_query`; invalid parameters keep their defaults."""
    session = Session()
    if usable_prompt(query):
        session = replace(session, prompt=usable_prompt(query))
    session = replace(session, choice=_choice(query))
    try:
        thresholds = Thresholds(
            float(query.get("nodes", session.thresholds.node)),
            float(query.get("edges", session.thresholds.edge)),
        )
        session = replace(session, thresholds=thresholds)
    except (ThresholdError, ValueError):
        pass  # keep the defaults
    try:
        scenarios = scenarios_from_json(query.get("scenarios", "[]"))
    except (ValueError, RecursionError):
        scenarios = ()
    try:
        annotations = Annotations.from_json(query.get("marks", ""))
    except (ValueError, RecursionError):
        annotations = Annotations()
    graph = query.get("graph", "")
    edits = (_edit(part) for part in query.get("off", "").split(","))
    return replace(
        session,
        graph=graph[:_LONGEST_KEY],
        as_stored=bool(graph) and not query.keys() & {"nodes", "edges"},
        look=query.get("look", "")[:_LONGEST_NAME],
        selected=_node(query.get("node", "")),
        filter=_filter(query),
        as_table=query.get("view") == "table",
        heads=heads_from_query(query),
        edits=tuple(dict(edit for edit in edits if edit is not None).items()),
        scenarios=scenarios,
        annotations=annotations,
        explain=explain_from_query(query),
        finding=finding_from_query(query),
        compared=_compared(query, session.choice),
        run=_run_options(query),
    )


def _filter(query: Mapping[str, str]) -> GraphFilter:
    hidden = query.get("hide", "").split(",")
    match = re.fullmatch(r"(\d{1,4})-(\d{1,4})", query.get("layers", ""))
    return GraphFilter(
        errors="errors" not in hidden,
        max_density=DENSE if "dense" in hidden else 1.0,
        layers=(int(match[1]), int(match[2])) if match else None,
        negative_only="positive" in hidden,
        hidden_kinds=frozenset(
            unquote(name.removeprefix(_KIND))[:MAX_KIND]
            for name in hidden[:_MOST_HIDDEN]
            if name.startswith(_KIND)
        ),
    )


def _choice(query: Mapping[str, str]) -> ModelChoice:
    """Return the model of a link. Whether it can be opened is checked by the page."""
    fresh = ModelChoice()
    model = query.get("model", fresh.model)[:_LONGEST_NAME]
    transcoders = query.get("transcoders", fresh.transcoders)[:_LONGEST_NAME]
    if embedded(model) is not None and transcoders not in EMBEDDED_SETS:
        transcoders = fresh.transcoders
    dtype: Dtype = "bfloat16" if query.get("dtype") == "bfloat16" else "float32"
    return ModelChoice(model, transcoders, dtype)


def _run_options(query: Mapping[str, str]) -> RunOptions:
    fresh = RunOptions()
    try:
        options = RunOptions(
            query.get("follow", ""),
            int(query.get("generate", fresh.generate)),
            float(query.get("temperature", fresh.temperature)),
            int(query.get("seed", fresh.seed)),
        )
    except ValueError:
        return fresh
    usable = 0 <= options.generate <= MOST_GENERATED and 0 <= options.temperature <= MOST_RANDOM
    return options if usable and 0 <= options.seed < 2**31 else fresh


def _compared(query: Mapping[str, str], choice: ModelChoice) -> Compared:
    given = {name: query[key] for name, key in _COMPARED.items() if query.get(key)}
    if given.get("transcoders") not in sets_of(choice):
        given.pop("transcoders", None)
    if given.get("alignment") not in get_args(Alignment):
        given.pop("alignment", None)
    return Compared(**given)  # type: ignore[arg-type]


def _node(text: str) -> NodeId | None:
    try:
        return NodeId.parse(text)
    except ValueError:
        return None


def _edit(text: str) -> tuple[NodeId, float] | None:
    name, _, factor = text.partition("*")
    node = _node(name)
    try:
        number = float(factor or 0)
    except ValueError:
        return None
    usable = node is not None and node.kind == "feature" and abs(number) <= LARGEST_FACTOR
    return (node, number) if node is not None and usable else None
