"""`AttentionAnswers`: questions about the heads of a stored graph, answered by the worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic

from cache.engine import M
from cache.jobs import Job
from cache.memory import BoundedCache, held_bytes
from cache.request import (
    AttentionQuestion,
    EdgeHeadsRequest,
    HeadLookRequest,
    NodeHeadsRequest,
    attention_digest,
)
from cache.worker import Worker
from tracer.errors import AttentionError
from tracer.graph.graph import AttributionGraph
from tracer.graph.pruning import PrunedGraph
from tracer.types import Thresholds

if TYPE_CHECKING:
    from tracer.attention.edge_heads import EdgeHeads
    from tracer.attention.summaries import HeadLook, NodeHeads

ANSWER_BYTES: Final = 64 * 1024**2
"""Memory for answers about attention."""


class AttentionAnswers(Generic[M]):
    """Part of :class:`cache.Backend`: answers from memory, or by its worker.

    Jobs fail with :class:`AttentionError` for a graph that is gone, or that this model did not
    trace.
    """

    def __init__(
        self,
        graph: Callable[[str], AttributionGraph | None],
        pruned: Callable[[str, Thresholds], PrunedGraph | None],
        ask: Callable[..., Job[Any]],
        worker: Worker[M],
    ) -> None:
        self._find_graph, self._find_pruned = graph, pruned
        self._submit, self._worker = ask, worker
        self._answers: BoundedCache[str, Any] = BoundedCache(ANSWER_BYTES, held_bytes)

    def node(self, request: NodeHeadsRequest, session: str = "") -> Job[NodeHeads]:
        """Return which heads carried the input of one node."""

        def work(model: M, job: Job[NodeHeads]) -> NodeHeads:
            graph = self._graph(request.graph)
            return self._worker.engine.node_heads(model, graph, request.node)

        return self._ask(request, f"heads into {request.node}", work, session)

    def edges(self, request: EdgeHeadsRequest, session: str = "") -> Job[EdgeHeads]:
        """Return which head carried each edge of the pruned graph."""

        def work(model: M, job: Job[EdgeHeads]) -> EdgeHeads:
            pruned = self._find_pruned(request.graph, request.thresholds)
            if pruned is None:
                raise _gone(request.graph)
            return self._worker.engine.edge_heads(model, pruned, job.report)

        return self._ask(request, "heads of all edges", work, session)

    def look(self, request: HeadLookRequest, session: str = "") -> Job[HeadLook]:
        """Return why a head looks where it looks."""

        def work(model: M, job: Job[HeadLook]) -> HeadLook:
            return self._worker.engine.head_look(model, self._graph(request.graph), request)

        return self._ask(request, f"head L{request.layer} H{request.head}", work, session)

    def _graph(self, key: str) -> AttributionGraph:
        graph = self._find_graph(key)
        if graph is None:
            raise _gone(key)
        return graph

    def _ask(
        self,
        request: AttentionQuestion,
        title: str,
        work: Callable[[M, Job[Any]], Any],
        session: str,
    ) -> Job[Any]:
        def answer(model: M, job: Job[Any]) -> Any:
            job.report(0, 0, "following attention")
            result = work(model, job)
            self._answers.put(job.key, result)
            return result

        return self._submit(
            request.choice,
            title,
            lambda files: attention_digest(files, request),
            answer,
            session,
            self._answers.get,
        )


def _gone(key: str) -> AttentionError:
    return AttentionError(f"no graph is stored under {key!r}: trace the prompt again")
