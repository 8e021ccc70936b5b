"""Questions about the attention heads of a stored graph: which carried what, and why they look.

Each question is a value that is also the name of its answer, and knows how an open model answers
it. `AttentionAnswers` queues them; it is part of :class:`cache.Backend`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from cache.jobs import Job
from cache.memory import BoundedCache, held_bytes
from cache.method import HEAD_CHECK_ROOMS, method_fingerprint
from cache.request import ModelChoice, digest
from tracer.errors import AttentionError
from tracer.graph.graph import AttributionGraph
from tracer.types import NodeId, Progress, Thresholds

if TYPE_CHECKING:
    from tracer.attention.edge_heads import EdgeHeads
    from tracer.attention.summaries import HeadLook, NodeHeads
    from tracer.interventions.head_check import PairCheck
    from tracer.model.model import Model

ANSWER_BYTES: Final = 64 * 1024**2
"""Memory for answers."""


@dataclass(frozen=True)
class WhoCarried:
    """Which heads carried the input of ``node``."""

    node: NodeId

    def answer(self, model: Model, graph: AttributionGraph, progress: Progress) -> NodeHeads:
        import tracer
        from tracer.attention.summaries import node_heads

        return node_heads(tracer.split_by_head(model, graph, self.node))


@dataclass(frozen=True)
class WhoCarriedEdges:
    """Which head carried each edge that is kept at ``thresholds``."""

    thresholds: Thresholds

    def answer(self, model: Model, graph: AttributionGraph, progress: Progress) -> EdgeHeads:
        import tracer

        pruned = tracer.prune(graph, self.thresholds.node, self.thresholds.edge)
        return tracer.split_edges(model, pruned, progress=progress)


@dataclass(frozen=True)
class WhyLook:
    """Why a head looks from ``query`` at ``key``, by default where it looks most."""

    layer: int
    head: int
    query: int = -1
    key: int | None = None
    versus: int | Literal["rest", "sink"] | None = None

    def answer(self, model: Model, graph: AttributionGraph, progress: Progress) -> HeadLook:
        import tracer
        from tracer.attention.summaries import head_look

        why = tracer.explain_attention(
            model, graph, self.layer, self.head, self.query, self.key, self.versus
        )
        return head_look(why)


@dataclass(frozen=True)
class WithoutPairs:
    """What the model does without the ``pairs`` strongest pairs of the score ``look`` is about."""

    look: WhyLook
    pairs: int = 3

    def answer(self, model: Model, graph: AttributionGraph, progress: Progress) -> PairCheck:
        import tracer

        look = self.look
        why = tracer.explain_attention(model, graph, look.layer, look.head, look.query, look.key)
        return tracer.check_pairs(model, graph.token_ids, why, self.pairs, progress=progress)


Question = WhoCarried | WhoCarriedEdges | WhyLook | WithoutPairs


class AttentionAnswers:
    """Answers from memory, else by a job of the worker. Any thread may call it.

    Jobs fail with :class:`AttentionError` for a graph that is gone, that was imported, or that this
    model did not trace.
    """

    def __init__(
        self, graph: Callable[[str], AttributionGraph | None], ask: Callable[..., Job[Any]]
    ) -> None:
        self._graph, self._ask = graph, ask
        self._answers: BoundedCache[str, Any] = BoundedCache(ANSWER_BYTES, held_bytes)

    def node(
        self, key: str, question: WhoCarried, choice: ModelChoice, session: str = ""
    ) -> Job[NodeHeads]:
        """Return which heads carried the input of one node of the graph stored under ``key``."""
        return self._answer(key, question, choice, session)

    def edges(
        self, key: str, question: WhoCarriedEdges, choice: ModelChoice, session: str = ""
    ) -> Job[EdgeHeads]:
        """Return which head carried each edge of the pruned graph."""
        return self._answer(key, question, choice, session)

    def look(
        self, key: str, question: WhyLook, choice: ModelChoice, session: str = ""
    ) -> Job[HeadLook]:
        """Return why a head looks where it looks."""
        return self._answer(key, question, choice, session)

    def check(
        self, key: str, question: WithoutPairs, choice: ModelChoice, session: str = ""
    ) -> Job[PairCheck]:
        """Return what the model does without the strongest pairs of a score."""
        return self._answer(key, question, choice, session)

    def shape(self, choice: ModelChoice, session: str = "") -> Job[tuple[int, int]]:
        """Return how many layers a model has, and how many heads each."""

        def work(model: Model, job: Job[tuple[int, int]]) -> tuple[int, int]:
            shape = (model.n_layers, len(model.blocks[0].W_O))
            self._answers.put(job.key, shape)
            return shape

        return self._ask(
            choice,
            "heads of the model",
            lambda files: digest("heads", files),
            work,
            session,
            self._answers.get,
        )

    def _answer(self, key: str, question: Question, choice: ModelChoice, session: str) -> Job[Any]:
        name = (type(question).__name__, asdict(question), method_fingerprint(HEAD_CHECK_ROOMS))

        def work(model: Model, job: Job[Any]) -> Any:
            job.report(0, 0, "following attention")
            graph = self._graph(key)
            if graph is None:
                raise AttentionError(f"no graph is stored under {key!r}: trace the prompt again")
            result = question.answer(model, graph, job.report)
            self._answers.put(job.key, result)
            return result

        return self._ask(
            choice,
            "heads",
            lambda files: digest("attention", key, files, *name),
            work,
            session,
            self._answers.get,
        )
