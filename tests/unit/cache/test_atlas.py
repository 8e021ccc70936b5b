"""From a prompt to a stored graph and an edit, on the embedded model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import Backend, InterveneRequest, ModelChoice, TraceRequest, open_backend
from tracer.graph.pruning import prune
from tracer.types import Intervention

PROMPT = "The capital of the state containing Dallas is"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def backend(root: Path) -> Iterator[Backend]:
    backend = open_backend(root, device="cpu")
    yield backend
    backend.close(10)


@pytest.mark.parametrize("transcoders", ["per-layer", "cross-layer"])
def test_the_flagship_prompt_is_traced_stored_and_edited(
    backend: Backend, root: Path, transcoders: str
) -> None:
    choice = ModelChoice("atlas", transcoders)
    job = backend.trace(TraceRequest(PROMPT, choice))
    graph = job.result(120)
    assert not job.from_cache
    assert graph.targets[0].label.strip() == "Austin"

    again = open_backend(root)
    assert again.trace(TraceRequest(PROMPT, choice)).from_cache
    assert again.device is None, "no model was opened"
    again.close()

    everything_off = tuple(
        Intervention(int(layer), int(position), int(feature), 0.0)
        for layer, position, feature in graph.features
    )
    result = backend.intervene(InterveneRequest(PROMPT, everything_off, choice)).result(120)
    before = {entry.token: entry.probability for entry in result.baseline}
    after = {entry.token: entry.probability for entry in result.edited}
    (austin,) = (token for token in before if token.strip() == "Austin")
    assert after.get(austin, 0.0) < before[austin] / 2


def test_every_feature_of_the_pruned_flagship_has_a_card(backend: Backend) -> None:
    graph = backend.trace(TraceRequest(PROMPT)).result(120)
    index = backend.library.features(ModelChoice())
    assert index is backend.library.features(ModelChoice()), "the index is opened once"
    features = [node.feature for node in prune(graph).nodes if node.kind == "feature"]
    assert features
    for feature in features:
        card = index.card(feature)
        assert card is not None and card.groups, f"{feature} has no examples"
