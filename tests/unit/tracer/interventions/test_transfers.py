"""How much a run computes and transfers does not depend on how many edits it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import tiny
from counting import CountOperations

import tracer
from tracer.interventions.run import run_scenarios
from tracer.interventions.scenario import Edit, Operation, Scenario
from tracer.model.model import Model
from tracer.transcoders.tensor_files import StoredTensor
from tracer.types import FeatureId, NodeId

KINDS = ("transcoder_set", "cross_layer_transcoder")
OPERATIONS: tuple[Operation, ...] = ("set", "scale", "add")


def scenario(n_features: int, layers: tuple[int, ...] | None = None) -> Scenario:
    """Edits of ``n_features`` features in each layer, everywhere and on generated tokens."""
    edits = tuple(
        Edit(FeatureId(layer, feature), 1, None, OPERATIONS[feature % 3], 2.0)
        for layer in range(3)
        for feature in range(n_features)
    )
    return Scenario("edited", edits, constrained_layers=layers)


def count(model: Model, scenarios: list[Scenario], **options: Any) -> CountOperations:
    assert model.blocks, "weights are laid out once for each model"
    with CountOperations() as counted:
        run_scenarios(model, tiny.IDS, scenarios, generate=3, **options)
    return counted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [None, (0, 2)])
def test_more_edits_are_not_more_operations(
    open_tiny: Callable[..., Model], kind: str, layers: tuple[int, ...] | None
) -> None:
    model = open_tiny(kind=kind)
    few, many = (count(model, [scenario(n, layers)]) for n in (1, 20))
    assert many.n_transfers == few.n_transfers > 0
    assert many.calls == few.calls


def test_more_scenarios_in_a_batch_are_not_more_transfers(model: Model) -> None:
    """Each outcome reads its logits on the host, from one transfer of the batch."""
    few, many = (count(model, [scenario(2)] * n) for n in (2, 12))
    for name in ("_to_copy", "lift_fresh", "index_put_", "index", "bmm", "mm", "nonzero", "argmax"):
        assert many.calls[name] == few.calls[name], name


def test_more_watched_features_are_not_more_operations(model: Model) -> None:
    few, many = (
        count(
            model,
            [scenario(1)] * 3,
            watch=[
                NodeId("feature", layer, position, feature)
                for layer in range(3)
                for feature in range(n)
                for position in range(1, 6)
            ],
        )
        for n in (1, 20)
    )
    assert many.calls == few.calls


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_left_in_their_files_are_read_once_for_a_run(
    open_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folders = open_tiny(kind=kind).source
    lazy = tracer.load(
        str(folders.model_folder),
        str(folders.transcoder_folder),
        device="cpu",
        lazy_decoders=True,
        lazy_encoders=True,
    )
    reads: Counter[str] = Counter()
    rows = StoredTensor.rows

    def counting(tensor: StoredTensor, start: int, stop: int) -> Any:
        reads[tensor.place] += stop - start
        return rows(tensor, start, stop)

    monkeypatch.setattr(StoredTensor, "rows", counting)
    run_scenarios(lazy, tiny.IDS, [scenario(2), scenario(4)], generate=5, batch_size=1)
    assert len(reads) == 6, "an encoder and a decoder in each of three layers"
    assert set(reads.values()) == {4}
