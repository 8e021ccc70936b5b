"""The numbers are circuit-tracer 0.5.0's (golden files made by `make_golden.py`)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tracer
from tracer.models import Model

HERE = Path(__file__).parent
IDS = [1, 5, 11, 6, 34, 15]
SETS = ("per-layer", "cross-layer")
LIMITS = {"whole": None, "some": 40}


@cache
def model(transcoders: str) -> Model:
    return tracer.load(str(HERE / "model"), str(HERE / transcoders), device="cpu")


@cache
def golden(transcoders: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(HERE / f"golden-{transcoders}.safetensors")
    return found


@cache
def graph(transcoders: str, size: str) -> tracer.AttributionGraph:
    return tracer.trace(
        model(transcoders), IDS, max_logits=4, max_features=LIMITS[size], rank_every=8
    )


CASES = pytest.mark.parametrize(
    ("transcoders", "size"), [(name, size) for name in SETS for size in LIMITS]
)


@CASES
def test_the_same_features_are_active_and_selected(transcoders: str, size: str) -> None:
    expected, found = golden(transcoders), graph(transcoders, size)
    assert found.features.tolist() == expected[f"{size}.features"].tolist()
    assert torch.allclose(
        torch.tensor(found.activations), expected[f"{size}.activations"], atol=1e-5
    )
    assert len(found.features) == (LIMITS[size] or found.n_active_features)


@CASES
def test_the_same_logits_are_explained(transcoders: str, size: str) -> None:
    expected, found = golden(transcoders), graph(transcoders, size)
    ids = [target.token_ids[0] for target in found.targets]
    assert ids == expected[f"{size}.logit_ids"].tolist()
    probabilities = torch.tensor([target.probability for target in found.targets])
    assert torch.allclose(probabilities, expected[f"{size}.logit_probabilities"], atol=1e-6)


@CASES
def test_every_edge_agrees(transcoders: str, size: str) -> None:
    expected = golden(transcoders)[f"{size}.adjacency"]
    found = graph(transcoders, size).to_dense()
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@CASES
def test_pruning_keeps_the_same_nodes_and_edges(transcoders: str, size: str) -> None:
    expected = golden(transcoders)
    pruned = tracer.prune(graph(transcoders, size), 0.8, 0.98)
    assert pruned.node_mask.tolist() == expected[f"{size}.node_mask"].tolist()
    edges = np.zeros(expected[f"{size}.edge_mask"].shape, bool)
    edges[pruned.edges[1], pruned.edges[0]] = True
    assert (edges == expected[f"{size}.edge_mask"].numpy()).all()
    scores = torch.tensor([pruned.replacement_score, pruned.completeness_score])
    assert torch.allclose(scores, expected[f"{size}.scores"].float(), atol=1e-4)
    inner = slice(0, pruned.graph.index.logit_rows.start)
    cumulative = expected[f"{size}.cumulative"].numpy()
    assert np.allclose(pruned.cumulative_influence[inner], cumulative[inner], atol=1e-4)


@pytest.mark.parametrize("transcoders", SETS)
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("free", {"freeze_attention": False}),
        ("frozen", {"freeze_attention": True}),
        ("constrained", {"constrained_layers": range(3)}),
        ("constrained_some", {"constrained_layers": range(1, 3)}),
    ],
)
def test_interventions_give_the_same_logits(
    transcoders: str, mode: str, options: dict[str, object]
) -> None:
    expected = golden(transcoders)
    edits = [
        tracer.Intervention(int(layer), int(position), int(feature), float(value))
        for layer, position, feature, value in expected["edits"].tolist()
    ]
    result = tracer.intervene(model(transcoders), IDS, edits, **options)  # type: ignore[arg-type]
    found = torch.tensor(result.edited_logits)
    assert torch.allclose(found, expected[f"logits.{mode}"], atol=1e-4)
    assert (found - torch.tensor(result.baseline_logits)).abs().max() > 0.05
