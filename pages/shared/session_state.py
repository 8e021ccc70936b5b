"""What one visitor has chosen, as frozen values. Ids only, never results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cache import Annotations, ModelChoice
from charts.graph_view import GraphFilter
from tracer.atlas.gallery import gallery
from tracer.graph.comparison import Alignment
from tracer.interventions.scenario import Scenario
from tracer.types import NodeId, Supernode, Thresholds

LARGEST_FACTOR: Final = 10.0
MOST_GENERATED: Final = 40
MOST_RANDOM: Final = 2.0


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
    filter: GraphFilter = GraphFilter()
    as_table: bool = False
    """Whether the graph is shown as tables."""
    selected: NodeId | None = None
    edits: tuple[tuple[NodeId, float], ...] = ()
    """Features that are switched off, each with the multiple of its activation it is set to:
    0 is off, a negative one pushes against it."""
    scenarios: tuple[Scenario, ...] = ()
    """The what-ifs of the Interventions page, a column each."""
    annotations: Annotations = Annotations()
    """Pinned nodes and supernodes of this prompt's graph."""
    annotations_of: str = ""
    """Key of the graph the annotations were read from or saved with."""
    compared: Compared = Compared()
    run: RunOptions = RunOptions()

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
        """What the node is multiplied by; None while it is left alone."""
        return dict(self.edits).get(node)
