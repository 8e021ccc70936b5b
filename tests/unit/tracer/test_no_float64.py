"""No computation uses float64 tensors: Apple GPUs have none, and other GPUs are slow at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from observed import CONTEXT, documents, save_text
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tracer
from tracer.attribution import memory
from tracer.interventions.faithfulness import check_groups, check_target, switched_off
from tracer.model.model import Model

KINDS = ("transcoder_set", "cross_layer_transcoder")


class Float64Error(AssertionError):
    """A torch operation produced or consumed a float64 tensor."""


class NoFloat64(TorchDispatchMode):
    """Fail on every operation that reads or writes a float64 tensor."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor) and leaf.dtype in (torch.float64, torch.complex128):
                raise Float64Error(f"{func} with a {leaf.dtype} tensor of shape {leaf.shape}")
        return result


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def opened(request: pytest.FixtureRequest, open_tiny: Callable[..., Model], kind: str) -> Model:
    """A tiny Gemma 2 (soft caps, norms on both sides) with weights in either data type."""
    model = open_tiny("gemma2", kind=kind)
    folders = str(model.source.model_folder), str(model.source.transcoder_folder)
    return tracer.load(*folders, device="cpu", dtype=request.param)


def feature_nodes(graph: tracer.AttributionGraph, count: int) -> list[tracer.NodeId]:
    return [graph.index.node(row) for row in range(count)]


def test_the_mode_notices_float64() -> None:
    with NoFloat64():
        assert float(torch.ones(2).sum()) == 2
        with pytest.raises(Float64Error, match=r"_to_copy.*float64 tensor"):
            torch.ones(2).double()
        with pytest.raises(Float64Error, match="zeros"):
            torch.zeros(3, dtype=torch.float64)
    numbers = torch.ones(2, dtype=torch.float64)
    with NoFloat64(), pytest.raises(Float64Error, match="_to_copy"):
        numbers.float()


def test_trace(opened: Model) -> None:
    targets = [tracer.Contrast(5, 9), 7]
    with NoFloat64():
        tracer.trace(opened, tiny.IDS)
        tracer.trace(opened, tiny.IDS, targets=targets, max_features=9, batch_size=4)


def test_trace_with_long_rows(opened: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are cut to a share of their weight once there are too many entries."""
    monkeypatch.setattr(memory, "WHOLE_ROWS", 0)
    monkeypatch.setattr(memory, "LONG_ROW_SHARE", 0.9)
    with NoFloat64():
        graph = tracer.trace(opened, tiny.IDS)
    assert graph.dropped_weight > 0


@pytest.mark.parametrize("layers", [None, (0, 2)])
def test_intervene(opened: Model, layers: tuple[int, ...] | None) -> None:
    edits = [tracer.Intervention(0, 2, 3, 4.0), tracer.Intervention(2, -1, 5, -2.0)]
    with NoFloat64():
        result = tracer.intervene(
            opened, tiny.IDS, edits, constrained_layers=layers, generate=2, watch="all"
        )
        assert result.kl > 0 and result.compare()[0].before > 0


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_run_scenarios(opened: Model, temperature: float) -> None:
    feature = tracer.FeatureId(1, 5)
    scenarios = [
        tracer.Scenario("set", (tracer.Edit(feature, 2, None, "set", 3.0),)),
        tracer.Scenario("add", (tracer.Edit(feature, 1, 3, "add", 3.0),), freeze_norms=True),
        tracer.Scenario("scale", (tracer.Edit(feature, -1, None, "scale", 3.0),), False, (1,)),
    ]
    watch = [tracer.NodeId("feature", 2, 3, 4)]
    with NoFloat64():
        run = tracer.run_scenarios(
            opened, tiny.IDS, scenarios, generate=3, temperature=temperature, watch=watch
        )
    assert all(len(outcome.continuation) > 0 for outcome in run.outcomes)  # type: ignore[union-attr]


def test_faithfulness_checks(opened: Model) -> None:
    with NoFloat64():
        graph = tracer.trace(opened, tiny.IDS)
        nodes = feature_nodes(graph, 6)
        groups = {"first": nodes[:3], "second": nodes[3:]}
        run = tracer.run_scenarios(opened, tiny.IDS, switched_off(groups), watch=nodes)
        assert len(check_target(graph, groups, run, 0).names) == 2
        predicted, measured = check_groups(graph, groups, run)
    assert predicted.shape == measured.shape == (2, 2)


def test_build_index(opened: Model, tmp_path: Path) -> None:
    corpus = save_text(tmp_path / "texts.txt", documents(12))
    with NoFloat64():
        tracer.build_index(opened, corpus, tmp_path / "features", context=CONTEXT)
