"""bfloat16: half the memory, a forward pass in float32, and an error that the graph states."""

from __future__ import annotations

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import tracer
from tracer.model.model import Model


@pytest.fixture(scope="module")
def open_pair(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """The same model, its weights rounded to bfloat16, held in float32 and in bfloat16."""

    def open_one(architecture: str, **options: str) -> tuple[Model, Model]:
        root = tmp_path_factory.mktemp(architecture)
        folder = tiny.save_model(root / "model", architecture)
        transcoders = tiny.save_transcoders(root / "set", **options)
        for path in (folder / "model.safetensors", *transcoders.glob("*.safetensors")):
            rounded = {
                name: value.bfloat16().float()
                if value.ndim > 1 or folder in path.parents
                else value
                for name, value in load_file(path).items()
            }
            save_file(rounded, path, {"format": "pt"})
        exact = tracer.load(str(folder), str(transcoders), device="cpu")
        narrow = tracer.load(str(folder), str(transcoders), device="cpu", dtype="bfloat16")
        return exact, narrow

    return open_one


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_forward_pass_is_that_of_float32(open_pair, architecture: str) -> None:  # type: ignore[no-untyped-def]
    exact, narrow = open_pair(architecture)
    held = {parameter.dtype for parameter in narrow.bridge._bridge.parameters()}
    assert held == {torch.bfloat16}
    ids = torch.tensor(exact.encode(tiny.IDS))
    expected, found = exact.bridge.run(ids), narrow.bridge.run(ids)
    assert found.dtype == torch.float32
    # Gemma keeps the factor of its embeddings in the type of its weights, too.
    tolerance = 3e-3 if architecture.startswith("gemma") else 1e-5
    assert torch.allclose(found, expected, atol=tolerance)
    assert {p.dtype for p in narrow.bridge._bridge.parameters()} == held, "narrow again afterwards"


def test_weights_are_narrow_again_after_a_pass_that_failed(open_pair) -> None:  # type: ignore[no-untyped-def]
    _, narrow = open_pair("llama")

    def fail(value: torch.Tensor, hook: object) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        narrow.bridge.run(torch.tensor(tiny.IDS), [(narrow.write_hook(1), fail)])
    assert {p.dtype for p in narrow.bridge._bridge.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kind": "cross_layer_transcoder", "activation": "relu"},
        {"activation": "topk", "skip": True, "write": "hook_mlp_out", "read": "hook_resid_mid"},
    ],
    ids=["per-layer", "cross-layer", "top-k with skip"],
)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox", "olmo2"])
def test_the_stated_error_is_the_error(
    open_pair, architecture: str, options: dict[str, str]
) -> None:  # type: ignore[no-untyped-def]
    """Against the whole graph in float32, of which the stated error saw a sample."""
    exact, narrow = open_pair(architecture, **options)
    expected = tracer.trace(exact, tiny.PROMPT, max_logits=3)
    found = tracer.trace(narrow, tiny.PROMPT, max_logits=3)
    assert expected.rounding_error == 0.0
    assert found.features.tolist() == expected.features.tolist()
    assert found.activations == pytest.approx(expected.activations, abs=1e-4)
    dense, rounded = expected.to_dense(), found.to_dense()
    moved = (rounded - dense).abs().sum() / dense.abs().sum()
    assert 0 < found.rounding_error < 0.05
    assert found.rounding_error / 3 < float(moved) < 3 * found.rounding_error
    assert found.provenance["dtype"] == "bfloat16"


def test_an_intervention_hardly_notices(open_pair) -> None:  # type: ignore[no-untyped-def]
    exact, narrow = open_pair("llama", skip=True)
    edits = [tracer.Intervention(1, 2, 5, 3.0), tracer.Intervention(0, -1, 7, 0.0)]
    for options in ({}, {"freeze_attention": False}, {"constrained_layers": range(3)}):
        expected = tracer.intervene(exact, tiny.PROMPT, edits, **options)  # type: ignore[arg-type]
        found = tracer.intervene(narrow, tiny.PROMPT, edits, **options)  # type: ignore[arg-type]
        assert found.edited_logits == pytest.approx(expected.edited_logits, abs=1e-4)
