"""What one visitor has chosen: one frozen value under one key, mirrored in the address bar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, get_args

import streamlit as st

from cache import Dtype, Marks, ModelChoice, scenarios_from_json, scenarios_to_json
from pages._choices import sets_of
from tracer.atlas.gallery import gallery
from tracer.comparison import Alignment
from tracer.errors import ThresholdError
from tracer.scenarios import Scenario
from tracer.sources import ATLAS, ATLAS_TRANSCODERS
from tracer.types import NodeId, Supernode, Thresholds

_KEY: Final = "session"
LARGEST_FACTOR: Final = 10.0
MOST_GENERATED: Final = 40
MOST_RANDOM: Final = 2.0
_LONGEST_KEY: Final = 64
_LONGEST_NAME: Final = 400
_COMPARED: Final = {
    "prompt": "with",
    "transcoders": "with_transcoders",
    "alignment": "align",
    "left_target": "explain",
    "right_target": "with_explain",
    "graph": "with_graph",
}
"""Query parameters of a comparison."""


@dataclass(frozen=True)
class RunOptions:
    """How the what-ifs are run, the same for all columns."""

    follow: str = ""
    """A token whose probability is shown in every column; empty for none."""
    generate: int = 6
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Compared:
    """What the session's prompt is compared with, and how; empty texts mean "the same as here"."""

    prompt: str = ""
    transcoders: str = ""
    alignment: Alignment = "token"
    left_target: str = ""
    right_target: str = ""
    graph: str = ""
    """Key of a stored graph, which goes before a prompt."""


@dataclass(frozen=True)
class Session:
    """Ids only, never results."""

    prompt: str = gallery()[0].prompt
    choice: ModelChoice = ModelChoice()
    look: str = ""
    """The model that the Models page describes; empty for the one in use."""
    graph: str = ""
    """Key of a stored graph that is looked at instead of a trace of the prompt; empty for none."""
    thresholds: Thresholds = Thresholds()
    selected: NodeId | None = None
    edits: tuple[tuple[NodeId, float], ...] = ()
    """Features that are switched off, each with the multiple of its activation it is set to:
    0 is off, a negative one pushes against it."""
    scenarios: tuple[Scenario, ...] = ()
    """The what-ifs of the Interventions page, a column each."""
    marks: Marks = Marks()
    """Pinned nodes and supernodes of this prompt's graph."""
    marks_of: str = ""
    """Key of the graph that the marks were read from or saved with."""
    compared: Compared = Compared()
    run: RunOptions = RunOptions()

    @property
    def pinned(self) -> tuple[NodeId, ...]:
        return self.marks.pinned

    @property
    def supernodes(self) -> tuple[Supernode, ...]:
        return self.marks.supernodes

    @property
    def off(self) -> tuple[NodeId, ...]:
        return tuple(node for node, _ in self.edits)

    def factor(self, node: NodeId) -> float | None:
        """What the node is multiplied by; None while it is left alone."""
        return dict(self.edits).get(node)


def read() -> Session:
    """The visitor's session; at their first run, what the address bar asks for."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = from_query(st.query_params.to_dict())
    session: Session = st.session_state[_KEY]
    return session


def write(**changes: Any) -> None:
    """Replace parts of the session; a new prompt, model or stored graph drops what was selected in
    the old, and a new prompt or model closes the stored graph."""
    session = read()
    if {"prompt", "choice", "graph"} & changes.keys():
        dropped: dict[str, Any] = {
            "selected": None,
            "edits": (),
            "scenarios": (),
            "marks": Marks(),
            "marks_of": "",
        }
        dropped["graph"] = ""
        if session.graph:  # its thresholds were chosen for it
            dropped["thresholds"] = Thresholds()
        changes = {**dropped, **changes}
    st.session_state[_KEY] = replace(session, **changes)


def show(key: str, value: Any) -> None:
    """Have the widget of this key, which comes next, show ``value``.

    Said in every run: the browser remembers what was last done to a widget of the same key, so a
    default would not do, and what a run said that another one overtook may never have arrived.
    """
    st.session_state[key] = value


def show_text(key: str, text: str) -> None:
    """As :func:`show` for a box that a person may be typing into: only where it differs, and once
    more in the next run."""
    again = f"{key}, once more"
    differs = st.session_state.get(key) != text
    if differs or st.session_state.get(again):
        st.session_state[key] = text
    st.session_state[again] = differs


def mirror() -> None:
    """Bring the address bar up to date, so that it can be copied as a link."""
    wanted = to_query(read())
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)


def to_query(session: Session) -> dict[str, str]:
    """What differs from a fresh session, as query parameters."""
    fresh, query = Session(), {"prompt": session.prompt}
    if session.graph:
        query["graph"] = session.graph
    if session.look:
        query["look"] = session.look
    for name, value in asdict(session.choice).items():
        if value != getattr(fresh.choice, name):
            query[name] = value
    if session.thresholds.node != fresh.thresholds.node:
        query["nodes"] = f"{session.thresholds.node:g}"
    if session.thresholds.edge != fresh.thresholds.edge:
        query["edges"] = f"{session.thresholds.edge:g}"
    if session.selected is not None:
        query["node"] = str(session.selected)
    if session.edits:
        query["off"] = ",".join(
            f"{node}*{factor:g}" if factor else str(node) for node, factor in session.edits
        )
    if session.scenarios:
        query["scenarios"] = scenarios_to_json(session.scenarios)
    if session.marks:
        query["marks"] = session.marks.to_json()
    for name, value in asdict(session.compared).items():
        if value != getattr(fresh.compared, name):
            query[_COMPARED[name]] = value
    for name, value in asdict(session.run).items():
        if value != getattr(fresh.run, name):
            query[name] = f"{value:g}" if isinstance(value, float) else str(value)
    return query


def from_query(query: Mapping[str, str]) -> Session:
    """The inverse of :func:`to_query`; whatever makes no sense is left at its default."""
    session = Session()
    if query.get("prompt"):
        session = replace(session, prompt=query["prompt"])
    session = replace(session, choice=_choice(query))
    try:
        thresholds = Thresholds(
            float(query.get("nodes", session.thresholds.node)),
            float(query.get("edges", session.thresholds.edge)),
        )
        session = replace(session, thresholds=thresholds)
    except (ThresholdError, ValueError):
        pass  # a mistyped link opens at the defaults
    try:
        scenarios = scenarios_from_json(query.get("scenarios", "[]"))
    except ValueError:
        scenarios = ()  # as for any mistyped link
    try:
        marks = Marks.from_json(query.get("marks", ""))
    except ValueError:
        marks = Marks()
    graph = query.get("graph", "")
    edits = (_edit(part) for part in query.get("off", "").split(","))
    return replace(
        session,
        graph=graph[:_LONGEST_KEY],
        look=query.get("look", "")[:_LONGEST_NAME],
        selected=_node(query.get("node", "")),
        edits=tuple(dict(edit for edit in edits if edit is not None).items()),
        scenarios=scenarios,
        marks=marks,
        compared=_compared(query, session.choice),
        run=_run_options(query),
    )


def _choice(query: Mapping[str, str]) -> ModelChoice:
    """The model of a link, whether it can be opened here or not: the page says so."""
    fresh = ModelChoice()
    model = query.get("model", fresh.model)[:_LONGEST_NAME]
    transcoders = query.get("transcoders", fresh.transcoders)[:_LONGEST_NAME]
    if model == ATLAS and transcoders not in ATLAS_TRANSCODERS:
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


def toggle_pin(node: NodeId) -> None:
    """Pin a node, or take its pin away, also out of a supernode; an empty supernode goes too."""
    marks = read().marks
    pinned = tuple(n for n in marks.pinned if n != node)
    groups = tuple(
        replace(group, nodes=tuple(n for n in group.nodes if n != node))
        for group in marks.supernodes
    )
    if (pinned, groups) == (marks.pinned, marks.supernodes):
        pinned += (node,)
    write(marks=Marks(pinned, tuple(group for group in groups if group.nodes)))


def group_pins(name: str, nodes: tuple[NodeId, ...]) -> None:
    """Make a supernode of pinned nodes; they leave the pins and any supernode they were in."""
    marks, taken = read().marks, set(nodes)
    others = [
        replace(group, nodes=tuple(n for n in group.nodes if n not in taken))
        for group in marks.supernodes
    ]
    kept = tuple(group for group in others if group.nodes and group.name != name)
    same = next((group.nodes for group in others if group.name == name), ())
    write(
        marks=Marks(
            tuple(n for n in marks.pinned if n not in taken),
            (*kept, Supernode(name, (*same, *nodes))),
        )
    )


def ungroup(name: str) -> None:
    """Dissolve a supernode; its nodes stay pinned."""
    marks = read().marks
    freed = [n for group in marks.supernodes if group.name == name for n in group.nodes]
    kept = tuple(group for group in marks.supernodes if group.name != name)
    write(marks=Marks(tuple(dict.fromkeys((*marks.pinned, *freed))), kept))


def rename_supernode(old: str, new: str) -> None:
    """Nothing happens where ``new`` is empty or taken."""
    marks = read().marks
    if new and new not in {group.name for group in marks.supernodes}:
        renamed = tuple(
            replace(group, name=new) if group.name == old else group for group in marks.supernodes
        )
        write(marks=replace(marks, supernodes=renamed))


def change_scenario(number: int, old: Scenario, new: Scenario) -> None:
    """Put ``new`` in the place of ``old``, which the visitor saw in column ``number``.

    Nothing happens when another one stands there by now: two clicks can arrive at once.
    """
    scenarios = list(read().scenarios)
    if scenarios[number : number + 1] == [old]:
        scenarios[number] = new
        write(scenarios=tuple(scenarios))


def arrange_scenario(number: int, scenario: Scenario, step: str) -> None:
    """``duplicate`` or ``remove`` the scenario seen in a column, or move it to the ``left``."""
    scenarios = list(read().scenarios)
    if number >= len(scenarios) or scenarios[number].edits != scenario.edits:
        return  # another one by now
    scenario = scenarios[number]
    if step == "duplicate":
        scenarios.insert(number + 1, scenario)
    elif step == "remove":
        scenarios.pop(number)
    elif number > 0:
        scenarios[number - 1], scenarios[number] = scenario, scenarios[number - 1]
    write(scenarios=tuple(scenarios))
