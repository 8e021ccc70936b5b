"""Atlas's sets are built with the general trainer, and the shipped ones count as built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tracer.atlas import build
from tracer.atlas.prefix_source import PrefixSource, SetRecipe
from tracer.atlas.prefixes import Prefixes
from tracer.paths import ATLAS_WEIGHTS
from tracer.transcoders.load import load_transcoders

LAYERS, PREFIXES, D_MODEL = 3, 400, 16


@pytest.fixture
def prefixes() -> Prefixes:
    """Outputs that are simple functions of inputs, and counts of a few frequent prefixes."""
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(LAYERS, PREFIXES, D_MODEL, generator=generator)
    mixing = torch.randn(D_MODEL, D_MODEL, generator=generator) / 4
    return Prefixes(
        prompts=[],
        positions=[],
        first_use=[(0, 0)] * PREFIXES,
        counts=torch.tensor([10_000.0] * 4 + [1.0] * (PREFIXES - 4)),
        inputs=inputs,
        outputs=(inputs @ mixing).relu(),
        predicted=[0] * PREFIXES,
    )


def test_the_shipped_weights_count_as_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("something would be built anew")

    threads = torch.get_num_threads()
    for name in ("_stage", "collect_prefixes", "fit"):
        monkeypatch.setattr(build, name, refuse)
    build.build(report=refuse, threads=threads)


def test_a_recipe_that_differs_is_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = json.loads((ATLAS_WEIGHTS / "per-layer" / build.STAMP).read_text())
    assert stamp.pop("model")
    assert SetRecipe(**stamp) == build.SETS["per-layer"]
    monkeypatch.setitem(build.SETS, "per-layer", SetRecipe(cross_layer=False, seed=6))
    monkeypatch.setattr(build, "Bridge", lambda *arguments: pytest.fail("builds anew"))
    with pytest.raises(pytest.fail.Exception, match="builds anew"):
        build.build(threads=torch.get_num_threads())


def test_prefixes_are_drawn_by_the_square_root_of_their_frequency(prefixes: Prefixes) -> None:
    recipe = SetRecipe(cross_layer=False, batch_size=500).recipe()
    source = PrefixSource(prefixes, recipe)
    frequent = prefixes.inputs[0, :4]
    share = torch.stack(
        [
            (batch.inputs[0][:, None] == frequent).all(-1).any(1).float().mean()
            for batch in source.shard(0)
        ]
    ).mean()
    weights = torch.tensor([100.0] * 4 + [1.0] * (PREFIXES - 4))
    assert float(share) == pytest.approx(float(weights[:4].sum() / weights.sum()), abs=0.01)
    first, again, other = (next(iter(source.shard(number))) for number in (0, 0, 1))
    assert torch.equal(first.inputs, again.inputs) and not torch.equal(first.inputs, other.inputs)


@pytest.mark.parametrize("cross_layer", [False, True])
def test_a_set_is_trained_from_prefixes(
    prefixes: Prefixes, tmp_path: Path, cross_layer: bool
) -> None:
    config = SetRecipe(
        cross_layer, n_features=64, steps=300, batch_size=128, active_first=60, active_last=30
    )
    lines: list[str] = []
    build.train_set(prefixes, config, tmp_path / "set", lines.append)
    opened = load_transcoders(tmp_path / "set", LAYERS, D_MODEL)
    assert opened.is_cross_layer == cross_layer and opened.model_name == "atlas"
    assert opened.scan == ("atlas-clt" if cross_layer else "atlas-plt")
    inputs, outputs = list(prefixes.inputs), prefixes.outputs
    active = [opened[layer].activations(inputs[layer]) for layer in range(LAYERS)]
    missed = (outputs - opened.reconstructions(active, inputs)).pow(2).sum()
    assert float(missed / (outputs - outputs.mean(1, keepdim=True)).pow(2).sum()) < 0.5
    l0 = sum(int((layer > 0).sum()) for layer in active) / PREFIXES
    assert l0 == pytest.approx(30, rel=0.35), "steered on draws that weight frequent prefixes"
    assert any("300 of" in line or "unexplained" in line for line in lines)
