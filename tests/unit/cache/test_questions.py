"""Questions about atlas's features are answered once, and with what `tracer` computes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import tracer
from cache import (
    ActivationsOn,
    Backend,
    ModelChoice,
    NeighbourSearch,
    TextSearch,
    TokenSearch,
    open_backend,
)
from tracer.errors import PromptError, SearchError, TargetError, TracerError
from tracer.search.match import FeatureMatch
from tracer.types import FeatureId

ATLAS, TEXAS = ModelChoice(), FeatureId(1, 887)
TEXT = "The capital of the state containing Dallas is"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    backend = open_backend(tmp_path_factory.mktemp("questions"), "cpu")
    yield backend
    backend.close(20)


@pytest.fixture(scope="module")
def model() -> tracer.Model:
    return tracer.load("atlas", device="cpu")


def same(matches: tuple[FeatureMatch, ...], expected: tuple[FeatureMatch, ...]) -> None:
    """The worker's thread may add numbers in another order."""
    assert [match.feature for match in matches] == [match.feature for match in expected]
    values = [match.value for match in expected]
    assert [match.value for match in matches] == pytest.approx(values, abs=1e-4)


def test_a_text_finds_the_features_that_fire_on_it(here: Backend, model: tracer.Model) -> None:
    search = TextSearch(TEXT, limit=5)
    job = here.questions.search(ATLAS, search)
    same(job.result(60), tracer.features_on_text(model, TEXT, 5))
    assert not job.from_cache and here.questions.search(ATLAS, search).from_cache
    shares = here.questions.search(ATLAS, TextSearch(TEXT, 5, 0.1, "share")).result(60)
    cards = [here.library.features(ATLAS).cached_card(match.feature) for match in shares]
    assert all(card and card.frequency and card.frequency <= 0.1 for card in cards)


@pytest.mark.parametrize(
    ("effect", "best"), [("promote", FeatureId(0, 67)), ("suppress", None), ("read", None)]
)
def test_a_token_finds_the_features_that_promote_suppress_or_read_it(
    here: Backend, model: tracer.Model, effect: str, best: FeatureId | None
) -> None:
    matches = here.questions.search(ATLAS, TokenSearch(" Austin", effect, 3)).result(60)  # type: ignore[arg-type]
    assert len(matches) == 3 and (best is None or matches[0].feature == best)
    values = [match.value for match in matches]
    assert all(value < 0 for value in values) if effect == "suppress" else min(values) > 0


def test_neighbours_have_the_z_scores_of_the_library(here: Backend, model: tracer.Model) -> None:
    job = here.questions.search(ATLAS, NeighbourSearch(TEXAS, "downstream", 3))
    matches = job.result(60)
    same(matches, tracer.neighbours(model, TEXAS, "downstream", 3))
    assert all(match.z is not None for match in matches)


def test_a_feature_is_run_on_a_text(here: Backend, model: tracer.Model) -> None:
    job = here.questions.activations(ATLAS, ActivationsOn(TEXAS, TEXT))
    example, expected = job.result(60), tracer.feature_activations(model, TEXAS, TEXT)
    assert example.tokens == expected.tokens
    assert example.activations == pytest.approx(expected.activations, abs=1e-5)


def test_labels_and_examples_are_searched(here: Backend) -> None:
    labels = here.questions.by_label(ATLAS, "texas", 3)
    assert len(labels) == 3 and all("Texas" in match.detail.text for match in labels)  # type: ignore[union-attr]
    job = here.questions.by_example(ATLAS, " Dallas", 1)
    assert job.result(60)[0].feature == FeatureId(1, 323)
    assert here.questions.by_example(ATLAS, " Dallas", 1).from_cache


def test_bad_questions_fail_with_a_sentence(here: Backend) -> None:
    def error(job: object) -> TracerError:
        with pytest.raises(TracerError) as caught:
            job.result(60)  # type: ignore[attr-defined]
        return caught.value

    ask = here.questions
    assert isinstance(error(ask.search(ATLAS, TextSearch(""))), PromptError)
    assert isinstance(error(ask.search(ATLAS, TokenSearch("not one token"))), TargetError)
    assert isinstance(
        error(ask.activations(ATLAS, ActivationsOn(FeatureId(9, 9), "a"))), SearchError
    )
    assert isinstance(error(ask.by_example(ATLAS, "two words")), SearchError)
    missing = ModelChoice("/nowhere", "/nowhere")
    assert error(ask.by_example(missing, "word")) is not None
    assert error(ask.search(missing, TextSearch("a"))) is not None
    with pytest.raises(SearchError):
        ask.by_label(ATLAS, "")
