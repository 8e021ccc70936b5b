"""A visitor's choices as frozen values: ids only, never results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cache import Annotations, ModelChoice, TraceRequest
from charts.graph_view import GraphFilter
from pages.shared.explaining import Explain
from pages.shared.finding import Finding
from pages.shared.heads_state import HeadsShown
from tracer.catalog.embedded import gallery
from tracer.graph.comparison import Alignment
from tracer.interventions.scenario import Scenario
from tracer.types import NodeId, Supernode, Thresholds

LARGEST_FACTOR: Final = 10.0
MOST_GENERATED: Final = 40
MOST_RANDOM: Final = 2.0


@dataclass(frozen=True)
class RunOptions:
    """How scenarios are run, the same for all columns."""

    follow: str = ""
    """Token whose probability is shown in every column; empty for none."""
    generate: int = 6
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Compared:
    """What the session's prompt is compared with, and how; an empty field means as on the left."""

    prompt: str = ""
    transcoders: str = ""
    alignment: Alignment = "token"
    left_target: str = ""
    right_target: str = ""
    graph: str = ""
    """Key of a stored graph, which replaces the prompt."""


@dataclass(frozen=True)
class Session:
    """Everything a visitor has chosen."""

    prompt: str = gallery()[0].prompt
    choice: ModelChoice = ModelChoice()
    look: str = ""
    """Model shown on the Models page; empty for the one in use."""
    graph: str = ""
    """Key of a stored graph shown instead of a trace of the prompt; empty for none."""
    thresholds: Thresholds = Thresholds()
    as_stored: bool = False
    """Whether the stored graph's own thresholds take the place of ``thresholds`` once it is open:
    a link to it names none."""
    filter: GraphFilter = GraphFilter()
    as_table: bool = False
    """Whether the graph is shown as tables."""
    heads: HeadsShown = HeadsShown()
    """The open attention head, and whether the graph is shown by heads."""
    selected: NodeId | None = None
    edits: tuple[tuple[NodeId, float], ...] = ()
    """Edited features with their steering strength, a multiple of their activation: 0 switches a
    feature off, a negative strength steers against it."""
    scenarios: tuple[Scenario, ...] = ()
    """Scenarios of the Interventions page, one per column."""
    annotations: Annotations = Annotations()
    """Pinned nodes and supernodes of this prompt's graph."""
    annotations_of: str = ""
    """Key of the graph the annotations belong to."""
    explain: Explain = Explain()
    """What a trace of the prompt explains."""
    finding: Finding = Finding()
    """What is looked for on the Features page."""
    compared: Compared = Compared()
    run: RunOptions = RunOptions()

    @property
    def request(self) -> TraceRequest:
        """The request that traces the prompt."""
        return self.explain.request(self.prompt, self.choice)

    @property
    def pinned(self) -> tuple[NodeId, ...]:
        return self.annotations.pinned

    @property
    def all_pinned(self) -> frozenset[NodeId]:
        """Pinned nodes, alone or in supernodes."""
        return frozenset((*self.pinned, *(n for group in self.supernodes for n in group.nodes)))

    @property
    def supernodes(self) -> tuple[Supernode, ...]:
        return self.annotations.supernodes

    @property
    def off(self) -> tuple[NodeId, ...]:
        return tuple(node for node, _ in self.edits)

    def factor(self, node: NodeId) -> float | None:
        """Return the steering strength of a node; None if it is not edited."""
        return dict(self.edits).get(node)
