"""`Questions`: what pages ask about features, texts and tokens without tracing anything.

A question that needs the model is put to the worker; one that only reads an index has a queue of
its own, because the first search of a large dictionary's examples takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from cache.forecast import Forecast, TraceForecast
from cache.job_queue import JobQueue
from cache.jobs import Job
from cache.memory import BoundedCache
from cache.model_library import ModelLibrary
from cache.request import ModelChoice, digest
from tracer.catalog.published import Published
from tracer.errors import TracerError
from tracer.features.cards import Example
from tracer.search.by_word import search_examples, search_labels
from tracer.search.match import FeatureMatch, NeighbourKind
from tracer.types import FeatureId, Progress

if TYPE_CHECKING:
    from tracer.model.model import Model

T = TypeVar("T")
_ANSWERS_KEPT: Final = 256
_JOBS_KEPT: Final = 16


@dataclass(frozen=True)
class TextSearch:
    """Which features fire most on ``text``."""

    text: str
    limit: int = 50
    max_density: float | None = None
    by: Literal["activation", "share"] = "activation"

    def answer(self, model: Model, progress: Progress) -> tuple[FeatureMatch, ...]:
        import tracer
        from tracer.features.lookup import feature_lookup

        needs_cards = self.max_density is not None or self.by == "share"
        return tracer.features_on_text(
            model,
            self.text,
            self.limit,
            self.max_density,
            reader=feature_lookup(model.source) if needs_cards else None,
            by=self.by,
            progress=progress,
        )


@dataclass(frozen=True)
class TokenSearch:
    """Which features promote, suppress or read ``token`` by their weights."""

    token: str
    effect: Literal["promote", "suppress", "read"] = "promote"
    limit: int = 50

    def answer(self, model: Model, progress: Progress) -> tuple[FeatureMatch, ...]:
        import tracer

        if self.effect == "read":
            return tracer.features_reading(model, self.token, self.limit, progress)
        suppress = self.effect == "suppress"
        return tracer.features_promoting(model, self.token, self.limit, suppress, progress)


@dataclass(frozen=True)
class NeighbourSearch:
    """Which features are connected or similar to ``feature`` by their weights."""

    feature: FeatureId
    kind: NeighbourKind
    limit: int = 20

    def answer(self, model: Model, progress: Progress) -> tuple[FeatureMatch, ...]:
        import tracer

        return tracer.neighbours(model, self.feature, self.kind, self.limit, progress)


@dataclass(frozen=True)
class ActivationsOn:
    """How strongly ``feature`` fires on each token of ``text``."""

    feature: FeatureId
    text: str

    def answer(self, model: Model, progress: Progress) -> Example:
        import tracer

        return tracer.feature_activations(model, self.feature, self.text)


@dataclass(frozen=True)
class Rendered:
    """A chat as the model reads it."""

    text: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class ChatText:
    """The prompt that ``messages`` (role and content) become with the model's chat template."""

    messages: tuple[tuple[str, str], ...]
    generation_prompt: bool = True
    """Whether the prompt ends where the model's answer begins."""

    def answer(self, model: Model, progress: Progress) -> Rendered:
        import tracer

        messages = [{"role": role, "content": content} for role, content in self.messages]
        text = tracer.chat_prompt(model, messages, self.generation_prompt)
        ids = model.encode(text)
        return Rendered(text, model.token_strings(ids), ids)


Search = TextSearch | TokenSearch | NeighbourSearch


class Questions:
    """Answers from memory, else by a job. Any thread may call it."""

    def __init__(self, ask: Callable[..., Job[Any]], library: ModelLibrary[Any]) -> None:
        self._ask = ask
        self._library = library
        self._answers: BoundedCache[str, Any] = BoundedCache(_ANSWERS_KEPT)
        self._searches = JobQueue("example searches", _JOBS_KEPT)

    def close(self, timeout: float | None = None) -> None:
        """Cancel searches of examples; those that need a model are the worker's."""
        self._searches.close(timeout, cancel=True)

    def search(
        self, choice: ModelChoice, search: Search, session: str = ""
    ) -> Job[tuple[FeatureMatch, ...]]:
        """Search the dictionary of a model by its weights, or by running it on a text."""
        return self._of_model(choice, search, search.answer, session)

    def activations(
        self, choice: ModelChoice, question: ActivationsOn, session: str = ""
    ) -> Job[Example]:
        """Run a feature on a text."""
        return self._of_model(choice, question, question.answer, session)

    def chat(self, choice: ModelChoice, question: ChatText, session: str = "") -> Job[Rendered]:
        """Render a chat as the model reads it."""
        return self._of_model(choice, question, question.answer, session)

    def forecast(
        self, choice: ModelChoice, question: TraceForecast, session: str = ""
    ) -> Job[Forecast]:
        """Estimate what a trace takes."""
        return self._of_model(choice, question, question.answer, session, question.prompt)

    def has_chat_template(self, choice: ModelChoice) -> bool:
        """Whether a model on this disk comes with a chat template; nothing is loaded."""
        try:
            folder = self._library.source(choice).model_folder
            if (folder / "chat_template.jinja").is_file():
                return True
            config = folder / "tokenizer_config.json"
            return '"chat_template"' in config.read_text(encoding="utf-8", errors="replace")
        except (TracerError, OSError):
            return False

    def _of_model(
        self,
        choice: ModelChoice,
        question: Any,
        answer: Callable[[Any, Progress], T],
        session: str,
        title: str = "",
    ) -> Job[T]:
        name = (type(question).__name__, asdict(question))

        def work(model: Any, job: Job[T]) -> T:
            job.report(0, 0, "asking the model")
            result = answer(model, job.report)
            self._answers.put(job.key, result)
            return result

        return self._ask(
            choice,
            title or type(question).__name__,
            lambda files: digest(*name, files),
            work,
            session,
            self._answers.get,
        )

    def by_label(
        self,
        choice: ModelChoice | Published,
        query: str,
        limit: int = 50,
        layers: tuple[int, int] | None = None,
    ) -> tuple[FeatureMatch, ...]:
        """Search the labels of a dictionary, in the caller's thread.

        Raises a :class:`TracerError` for a query that cannot be read and for a damaged index.
        """
        return search_labels(self._library.features(choice), query, limit, layers=layers)

    def by_example(
        self, choice: ModelChoice, word: str, limit: int = 50, session: str = ""
    ) -> Job[tuple[FeatureMatch, ...]]:
        """Search for the features whose top examples peak on a word."""
        title = f"examples with {word}"
        try:
            reader = self._library.features(choice)
        except TracerError as error:
            return Job.refused("", error, title)

        def read(job: Job[tuple[FeatureMatch, ...]]) -> tuple[FeatureMatch, ...]:
            job.report(0, 0, "searching the examples")
            matches = search_examples(reader, word, limit, job.report)
            self._answers.put(job.key, matches)
            return matches

        key = f"{choice} {word} {limit}"
        answer = self._answers.get(key)
        if answer is not None:
            return Job.found(key, answer, title)
        return self._searches.submit(key, title, read, session)
