"""Trace many prompts into the store, and a table of what came out.

Every graph is kept when it is done, so an interrupted run loses only what was in progress: the same
command goes on where it stopped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from cache.jobs import Job
from cache.prompt_file import BadLine, Prompt
from cache.questions import ChatText, Rendered
from cache.request import ModelChoice, TraceRequest
from tracer.errors import Cancelled, TracerError
from tracer.files import replacing
from tracer.graph.graph import AttributionGraph

_AHEAD: Final = 64
"""Prompts that are queued at a time."""


class Asking(Protocol):
    """Whatever knows a model's chat template."""

    def chat(self, choice: ModelChoice, question: ChatText, session: str = "") -> Job[Rendered]:
        """Render a chat as the model reads it."""


class Tracing(Protocol):
    """Whatever traces: the backend of this process, or a cluster."""

    @property
    def questions(self) -> Asking: ...

    def trace(self, request: TraceRequest, session: str = "") -> Job[AttributionGraph]:
        """Start tracing a prompt."""

    def graph_key_of(self, job_key: str) -> str:
        """Return the key under which the store has the graph of a job."""


@dataclass(frozen=True)
class Row:
    """One prompt of the summary."""

    line: int
    label: str
    prompt: str
    target: str
    state: str
    """``done`` or ``failed``."""
    from_store: bool = False
    key: str = ""
    """Of the graph in the store."""
    n_tokens: int = 0
    n_features: int = 0
    n_active_features: int = 0
    n_edges: int = 0
    next_token: str = ""
    probability: float = 0.0
    seconds: float = 0.0
    error: str = ""


def trace_many(
    tracing: Tracing,
    prompts: Sequence[Prompt],
    choice: ModelChoice,
    max_features: int | None = None,
    session: str = "many",
) -> Iterator[Row]:
    """Trace every prompt and yield its row, in order; a prompt that fails gets a row too."""
    waiting: deque[tuple[Prompt, Job[AttributionGraph]]] = deque()
    source = iter(prompts)
    try:
        while True:
            for prompt in source:
                waiting.append(_started(tracing, prompt, choice, max_features, session))
                if len(waiting) >= _AHEAD:
                    break
            if not waiting:
                return
            yield _row(tracing, *waiting.popleft())
    finally:
        for _, job in waiting:
            job.cancel(session)


def _started(
    tracing: Tracing, prompt: Prompt, choice: ModelChoice, max_features: int | None, session: str
) -> tuple[Prompt, Job[AttributionGraph]]:
    """Start tracing a prompt; a chat becomes the text that the model's template makes of it."""
    if prompt.messages:
        chat = tracing.questions.chat(choice, ChatText(prompt.messages), session)
        try:
            prompt = replace(prompt, prompt=chat.result().text)
        except Cancelled:
            raise
        except TracerError as error:
            return prompt, Job.refused("", error, "a chat")
    targets = (prompt.target,) if prompt.target else None
    request = TraceRequest(prompt.prompt, choice, targets, max_features)
    return prompt, tracing.trace(request, session)


def _row(tracing: Tracing, prompt: Prompt, job: Job[AttributionGraph]) -> Row:
    start = (prompt.number, prompt.label, prompt.prompt, prompt.target)
    try:
        graph = job.result()
    except Cancelled:
        raise
    except TracerError as error:
        return Row(*start, "failed", error=str(error))
    first = graph.next_tokens[0] if graph.next_tokens else None
    return Row(
        *start,
        "done",
        job.from_cache,
        tracing.graph_key_of(job.key),
        len(graph.token_ids),
        len(graph.features),
        graph.n_active_features,
        graph.n_edges,
        first.token if first else "",
        first.probability if first else 0.0,
        round(job.seconds or 0.0, 3),
    )


def bad_row(line: BadLine) -> Row:
    """Return the row of a line that could not be read."""
    return Row(line.number, "", "", "", "failed", error=line.reason)


def write_summary(path: Path, rows: Sequence[Row]) -> None:
    """Write a table, CSV or Parquet by the name's ending; raises ``OSError``."""
    import pyarrow
    from pyarrow import csv, parquet

    table = pyarrow.Table.from_pylist([asdict(row) for row in rows])
    with replacing(path) as partial:
        if path.suffix.lower() == ".parquet":
            parquet.write_table(table, partial)
        else:
            csv.write_csv(table, partial)
