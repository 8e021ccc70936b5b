"""The numbers agree with circuit-tracer 0.5.0 (golden files made by `make_golden.py`)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tracer
from tracer.interventions.edit_hooks import EditedRun
from tracer.model.model import Model
from tracer.types import FeatureId

sys.path.append(str(Path(__file__).parent))
import golden_file
import make_cases
from cases import CASES, IDS, LIMITS, MODES, N_GENERATED, RANK_EVERY, REACHES, checksum

HERE = Path(__file__).parent
EVERY_CASE = pytest.mark.parametrize("case", CASES)
EVERY_GRAPH = pytest.mark.parametrize(
    ("case", "size"), [(case, size) for case in CASES for size in LIMITS]
)
Golden = dict[str, Tensor]


@cache
def golden(case: str) -> Golden:
    return golden_file.read(HERE / f"golden-{case}.safetensors")[0]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Open, and keep, the model of a case with the weights that the peer was given."""
    root = tmp_path_factory.mktemp("parity")

    @cache
    def open_one(case: str) -> Model:
        folders = make_cases.make(CASES[case], root / case)
        _, weights = golden_file.read(HERE / f"golden-{case}.safetensors")
        assert checksum(folders) == weights, (
            f"the weights of {case} differ from those of its golden file: the seeds or tiny.py "
            "changed; make the golden files again (see make_golden.py)"
        )
        return tracer.load(*map(str, folders), device="cpu")

    return open_one


@pytest.fixture(scope="session")
def graph(model: Callable[[str], Model]) -> Callable[[str, str], tracer.AttributionGraph]:
    @cache
    def trace_one(case: str, size: str) -> tracer.AttributionGraph:
        return tracer.trace(
            model(case), IDS, max_logits=4, max_features=LIMITS[size], rank_every=RANK_EVERY
        )

    return trace_one


Graphs = Callable[[str, str], tracer.AttributionGraph]


def test_a_checksum_changes_with_the_last_bit_of_a_weight(tmp_path: Path) -> None:
    folders = make_cases.make(CASES["llama-per-layer"], tmp_path)
    path = folders[1] / "layer_1.safetensors"
    before, tensors = checksum(folders), load_file(path)
    tensors["b_enc"][3] = torch.nextafter(tensors["b_enc"][3], torch.tensor(1.0))
    save_file(tensors, path)
    assert checksum(folders) != before


@EVERY_GRAPH
def test_the_same_features_are_active_and_selected(graph: Graphs, case: str, size: str) -> None:
    expected, traced = golden(case), graph(case, size)
    assert traced.features.tolist() == expected[f"{size}.features"].tolist()
    assert torch.allclose(
        torch.tensor(traced.activations), expected[f"{size}.activations"], atol=1e-5
    )
    assert len(traced.features) == (LIMITS[size] or traced.n_active_features)
    assert traced.n_active_features > max(filter(None, LIMITS.values()))


@EVERY_GRAPH
def test_the_same_logits_are_explained(graph: Graphs, case: str, size: str) -> None:
    expected, traced = golden(case), graph(case, size)
    ids = [target.token_ids[0] for target in traced.targets]
    assert ids == expected[f"{size}.logit_ids"].tolist()
    probabilities = torch.tensor([target.probability for target in traced.targets])
    assert torch.allclose(probabilities, expected[f"{size}.logit_probabilities"], atol=1e-6)


@EVERY_GRAPH
def test_every_edge_agrees(graph: Graphs, case: str, size: str) -> None:
    expected = golden(case)[f"{size}.adjacency"]
    edges = graph(case, size).to_dense()
    assert edges.shape == expected.shape
    assert (edges - expected).abs().max() <= 1e-5 * expected.abs().max()


@EVERY_GRAPH
def test_pruning_keeps_the_same_nodes_and_edges(graph: Graphs, case: str, size: str) -> None:
    expected = golden(case)
    pruned = tracer.prune(graph(case, size), 0.8, 0.98)
    assert pruned.node_mask.tolist() == expected[f"{size}.node_mask"].tolist()
    edges = np.zeros(expected[f"{size}.edge_mask"].shape, bool)
    edges[pruned.edges[1], pruned.edges[0]] = True
    assert (edges == expected[f"{size}.edge_mask"].numpy()).all()
    scores = torch.tensor([pruned.replacement_score, pruned.completeness_score])
    assert torch.allclose(scores, expected[f"{size}.scores"].float(), atol=1e-4)
    inner = slice(0, pruned.graph.index.logit_rows.start)
    cumulative = expected[f"{size}.cumulative"].numpy()
    assert np.allclose(pruned.cumulative_influence[inner], cumulative[inner], atol=1e-4)


@EVERY_CASE
@pytest.mark.parametrize("mode", MODES)
def test_interventions_give_the_same_logits(
    model: Callable[[str], Model], case: str, mode: str
) -> None:
    expected = golden(case)
    edits = [
        tracer.Intervention(int(layer), int(position), int(feature), float(value))
        for layer, position, feature, value in expected["edits"].tolist()
    ]
    result = tracer.intervene(model(case), IDS, edits, **MODES[mode])
    edited = torch.tensor(result.edited_logits)
    assert torch.allclose(edited, expected[f"logits.{mode}"], atol=1e-4)
    assert (edited - torch.tensor(result.baseline_logits)).abs().max() > 0.05


Generated = tuple[list[int], Tensor]
"""Generated tokens, and the ``(tokens, vocab)`` logits that each was chosen from."""


def edited_scenario(case: str, mode: str, reach: str) -> tracer.Scenario:
    """Return the golden edits, at their position only or from this position onward."""
    layers = MODES[mode].get("constrained_layers")
    return tracer.Scenario(
        f"{mode}.{reach}",
        tuple(
            tracer.Edit(
                FeatureId(int(layer), int(feature)),
                int(position),
                None if reach == "on" else int(position) + 1,
                "set",
                value,
            )
            for layer, position, feature, value in golden(case)["edits"].tolist()
        ),
        freeze_attention=MODES[mode].get("freeze_attention", True),
        constrained_layers=None if layers is None else tuple(layers),
    )


@pytest.fixture(scope="session")
def generated(model: Callable[[str], Model]) -> Callable[[str], dict[str, Generated]]:
    """Generate with a case's model: unedited (``baseline``), and in every mode and reach.

    An outcome does not have the logits of generated tokens, so they are recorded where they leave
    the model. All scenarios are one batch.
    """

    @cache
    def generate_one(case: str) -> dict[str, Generated]:
        recorded: dict[EditedRun, list[Tensor]] = {}
        step = EditedRun.step

        def record(run: EditedRun, *inputs: Any) -> tuple[Tensor, Any]:
            logits, kept = step(run, *inputs)
            recorded.setdefault(run, []).append(logits[:, -1])
            return logits, kept

        scenarios = [edited_scenario(case, mode, reach) for mode in MODES for reach in REACHES]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(EditedRun, "step", record)
            run = tracer.run_scenarios(model(case), IDS, scenarios, generate=N_GENERATED)
        rows = [row for steps in recorded.values() for row in torch.stack(steps, dim=1)]
        by_name = {}
        for outcome, logits in zip((run.baseline, *run.outcomes), rows, strict=True):
            assert isinstance(outcome, tracer.Outcome)
            tokens = list(outcome.continuation)
            assert torch.allclose(torch.tensor(outcome.logits), logits[0], atol=1e-5)
            by_name[outcome.name] = tokens, logits[: len(tokens)]
        return by_name

    return generate_one


@EVERY_CASE
@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("mode", MODES)
def test_the_same_tokens_are_generated_from_the_same_logits(
    generated: Callable[[str], dict[str, Generated]], case: str, mode: str, reach: str
) -> None:
    """The first logits are those of the last prompt position, the rest of generated tokens."""
    expected = golden(case)
    tokens, logits = generated(case)[f"{mode}.{reach}"]
    assert tokens == expected[f"generated.{mode}.{reach}.ids"].tolist()
    peer_logits = expected[f"generated.{mode}.{reach}.logits"]
    assert logits.shape == peer_logits.shape
    assert (logits - peer_logits).abs().max() < 1e-4
    plain = generated(case)["baseline"][1]
    both = slice(min(len(plain), len(logits)))
    change = (logits[both] - plain[both]).abs().amax(dim=1)
    # Edits of the prompt that only write to the last layer leave nothing that generated tokens
    # could attend to.
    assert (change if reach == "on" else change[:1]).min() > 0.05
