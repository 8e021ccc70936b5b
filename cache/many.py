"""Trace many prompts into the store, and a table of what came out.

Every graph is kept when it is done, so an interrupted run loses only what was in progress: the same
command goes on where it stopped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Protocol

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


class ManyTraces:
    """Prompts that are traced in turn, at most a few dozen of them queued at a time.

    >>> from cache import open_backend
    >>> import tempfile
    >>> backend = open_backend(Path(tempfile.mkdtemp()), "cpu")
    >>> prompts = [Prompt(1, "The opposite of hot is")]
    >>> many = ManyTraces(backend, prompts, lambda prompt: TraceRequest(prompt.prompt))
    >>> [row.next_token for row in many]
    [' cold']
    >>> many.is_complete
    True
    >>> backend.close()
    """

    def __init__(
        self,
        tracing: Tracing,
        prompts: Sequence[Prompt],
        request: Callable[[Prompt], TraceRequest],
        session: str = "many",
        bad: Sequence[BadLine] = (),
    ) -> None:
        self.prompts = tuple(prompts)
        self.rows: list[Row] = []
        """Of the prompts that are done or failed, in order."""
        self.bad = tuple(bad)
        """Lines of the file that could not be read."""
        self._tracing = tracing
        self._request = request
        self._session = session
        self._source = iter(self.prompts)
        self._waiting: deque[tuple[Prompt, Job[AttributionGraph]]] = deque()
        self._next: Prompt | None = None
        self._chat: Job[Rendered] | None = None
        self._is_stopped = False

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return self._is_stopped or len(self.rows) == len(self.prompts)

    def advance(self) -> None:
        """Queue more prompts, and take the rows of those that have ended; never waits."""
        self._fill(wait=False)
        while self._waiting and self._waiting[0][1].wait(0):
            self._take()
            self._fill(wait=False)

    def stop(self) -> None:
        """Cancel what has not ended."""
        self._is_stopped = True
        for _, job in self._waiting:
            job.cancel(self._session)
        self._waiting.clear()

    def __iter__(self) -> Iterator[Row]:
        """Yield the row of every prompt, waiting for it."""
        while not self.is_complete:
            self._fill(wait=True)
            self._take()
            yield self.rows[-1]

    def _fill(self, wait: bool) -> None:
        while len(self._waiting) < _AHEAD and not self._is_stopped:
            if self._next is None:
                self._next = next(self._source, None)
            if self._next is None:
                return
            started = self._started(self._next, wait)
            if started is None:
                return
            self._waiting.append(started)
            self._next = None

    def _started(self, prompt: Prompt, wait: bool) -> tuple[Prompt, Job[AttributionGraph]] | None:
        """Start a trace. A chat becomes text first: without ``wait``, None until it has."""
        if prompt.messages:
            if self._chat is None:
                choice = self._request(prompt).choice
                self._chat = self._tracing.questions.chat(
                    choice, ChatText(prompt.messages), self._session
                )
            if not wait and not self._chat.wait(0):
                return None
            chat, self._chat = self._chat, None
            try:
                prompt = replace(prompt, prompt=chat.result().text)
            except Cancelled:
                raise
            except TracerError as error:
                return prompt, Job.refused("", error, "a chat")
        return prompt, self._tracing.trace(self._request(prompt), self._session)

    def _take(self) -> None:
        self.rows.append(_row(self._tracing, *self._waiting.popleft()))


def trace_many(
    tracing: Tracing,
    prompts: Sequence[Prompt],
    choice: ModelChoice,
    max_features: int | None = None,
    session: str = "many",
) -> Iterator[Row]:
    """Trace every prompt and yield its row, in order; a prompt that fails gets a row too."""

    def request(prompt: Prompt) -> TraceRequest:
        targets = (prompt.target,) if prompt.target else None
        return TraceRequest(prompt.prompt, choice, targets, max_features)

    many = ManyTraces(tracing, prompts, request, session)
    try:
        yield from many
    finally:
        many.stop()


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


def summary_csv(rows: Sequence[Row]) -> bytes:
    """Return the table as CSV."""
    from pyarrow import csv

    content = BytesIO()
    csv.write_csv(_table(rows), content)
    return content.getvalue()


def write_summary(path: Path, rows: Sequence[Row]) -> None:
    """Write a table, CSV or Parquet by the name's ending; raises ``OSError``."""
    from pyarrow import csv, parquet

    table = _table(rows)
    with replacing(path) as partial:
        if path.suffix.lower() == ".parquet":
            parquet.write_table(table, partial)
        else:
            csv.write_csv(table, partial)


def _table(rows: Sequence[Row]) -> Any:
    import pyarrow

    return pyarrow.Table.from_pylist([asdict(row) for row in rows])
