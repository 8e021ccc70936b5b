"""Sets as converters, sparsify and SAELens write them open with the right numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from other_tools import saelens, sparsify
from safetensors.torch import load_file, save_file

import tracer
from tracer.catalog.resolve import resolve
from tracer.errors import TranscoderError
from tracer.transcoders.config import ReadPoint, WritePoint
from tracer.transcoders.load import load_transcoders
from tracer.transcoders.save import convert
from tracer.transcoders.transcoder import TranscoderSet

N_LAYERS, D_MODEL, N_FEATURES = 3, 32, 24


def opened(folder: Path, **options: bool) -> TranscoderSet:
    return load_transcoders(folder, N_LAYERS, D_MODEL, **options)


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def per_layer(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """Write a JumpReLU set with a change to the tensors of each layer."""
    tiny.save_transcoders(folder, skip=True)
    for layer in range(N_LAYERS):
        path = folder / f"layer_{layer}.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
    return folder


def assert_same(left: TranscoderSet, right: TranscoderSet) -> None:
    x = torch.randn(7, D_MODEL, generator=torch.Generator().manual_seed(3))
    for one, other in zip(left.layers, right.layers, strict=True):
        assert one.activations(x).count_nonzero() > 20
        torch.testing.assert_close(one.activations(x), other.activations(x))
        torch.testing.assert_close(one.decoder(), other.decoder())
        torch.testing.assert_close(one.skipped(x) + one.b_dec, other.skipped(x) + other.b_dec)


def rename_threshold(tensors: dict[str, torch.Tensor]) -> None:
    tensors["threshold"] = tensors.pop("activation_function.threshold")


def as_rows(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            tensors[name] = tensor[None]


@pytest.mark.parametrize("change", [rename_threshold, as_rows])
@pytest.mark.parametrize("lazy", [False, True])
def test_thresholds_and_biases_may_be_rows(
    change: Callable[[dict[str, torch.Tensor]], Any], lazy: bool, tmp_path: Path
) -> None:
    plain = opened(per_layer(tmp_path / "plain", lambda tensors: None))
    folder = per_layer(tmp_path / "set", change)
    other = opened(folder, lazy_decoders=lazy, lazy_encoders=lazy)
    assert other[0].threshold is not None and other[0].threshold.shape == (N_FEATURES,)
    assert_same(plain, other)


def test_a_threshold_of_another_width_still_belongs_to_another_model(tmp_path: Path) -> None:
    def widen(tensors: dict[str, torch.Tensor]) -> None:
        tensors["activation_function.threshold"] = torch.zeros(1, 1, N_FEATURES)

    with pytest.raises(TranscoderError, match=r"shape \(1, 1, 24\), the model needs \(24,\)"):
        opened(per_layer(tmp_path / "set", widen))


EXTRA = {
    "n_layers": N_LAYERS,
    "d_model": D_MODEL,
    "d_transcoder": N_FEATURES,
    "activation_function": "JumpReLU",
    "scan_name": "lab/set",
    "scan": None,
}


def test_keys_that_converters_add_are_checked(tmp_path: Path) -> None:
    plain = opened(per_layer(tmp_path / "plain", lambda tensors: None))
    folder = per_layer(tmp_path / "set", lambda tensors: None)
    configure(folder, **EXTRA)
    assert_same(plain, opened(folder))
    assert opened(folder).scan == "lab/set"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 4}, "has n_layers 4, the tensors have 3: the config belongs to another set"),
        ({"d_model": 64}, "has d_model 64, the tensors have 32"),
        ({"d_transcoder": 16}, "has d_transcoder 16, the tensors have 24"),
        ({"d_model": "wide"}, "has d_model 'wide': expected a whole number from 1"),
        ({"activation_function": "gelu"}, "has activation_function 'gelu': expected one of relu"),
        ({"activation": "relu"}, "has activation relu and activation_function jumprelu"),
        ({"gain": 2}, "has unknown keys: gain"),
    ],
)
def test_a_key_that_contradicts_the_tensors_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = tiny.save_transcoders(tmp_path / "set")
    configure(folder, **(EXTRA | changes))
    with pytest.raises(TranscoderError, match=message):
        opened(folder)


def test_the_activation_function_of_a_converter_counts(tmp_path: Path) -> None:
    folder = per_layer(tmp_path / "set", lambda tensors: None)
    configure(folder, activation_function="ReLU")
    assert opened(folder)[0].threshold is None


def test_cache_settings_are_ignored_with_a_warning(tmp_path: Path) -> None:
    folder = tiny.save_transcoders(tmp_path / "set")
    configure(folder, lazy_decoder=True, cache_dir="/x", revision="v1")
    with pytest.warns(UserWarning, match=r"config\.yaml has cache_dir, lazy_decoder, which are"):
        opened(folder)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_set_of_sparsify_opens(lazy: bool, tmp_path: Path) -> None:
    """It rectifies before TopK, so a negative activation among the k largest does not count."""
    plain = opened(tiny.save_transcoders(tmp_path / "plain", activation="topk", skip=True))
    folder = sparsify(tmp_path / "set")
    transcoders = opened(folder, lazy_decoders=lazy, lazy_encoders=lazy)
    assert (transcoders.read_point, transcoders.write_point) == (
        ReadPoint.MLP_INPUT,
        WritePoint.MLP_OUTPUT,
    )
    assert_same(plain, transcoders)
    layer, x = transcoders[0], torch.zeros(1, D_MODEL)
    low = torch.linspace(-9, 2, N_FEATURES)
    low_plain = torch.where(low >= low.topk(5).values.min(), low, 0)
    for one, expected in ((plain[0], low_plain), (layer, low_plain.relu())):
        one.b_enc.copy_(low)
        torch.testing.assert_close(one.activations(x)[0], expected)
        chosen = one.chosen_activations(x.expand(N_FEATURES, -1), torch.arange(N_FEATURES))
        torch.testing.assert_close(chosen, expected)


@pytest.mark.parametrize("flat", [False, True])
def test_a_set_of_saelens_opens(flat: bool, tmp_path: Path) -> None:
    plain = opened(tiny.save_transcoders(tmp_path / "plain", skip=True))
    transcoders = opened(saelens(tmp_path / "set", flat))
    assert (transcoders.read_point, transcoders.write_point, transcoders.model_name) == (
        ReadPoint.NORMALIZED,
        WritePoint.RESIDUAL_UPDATE,
        "gemma-2-2b",
    )
    assert_same(plain, transcoders)


def test_a_relu_transcoder_of_saelens_has_no_threshold(tmp_path: Path) -> None:
    transcoders = opened(saelens(tmp_path / "set", architecture="skip_transcoder"))
    assert transcoders[0].threshold is None


@pytest.mark.parametrize("write", [sparsify, saelens])
def test_such_a_set_can_be_traced_and_converted(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder, model = write(tmp_path / "set"), tiny.save_model(tmp_path / "model")
    graph = tracer.trace(tracer.load(str(model), str(folder), device="cpu"), tiny.PROMPT)
    assert convert(folder, tmp_path / "converted") == N_LAYERS
    assert_same(opened(folder), opened(tmp_path / "converted"))
    again = tracer.load(str(model), str(tmp_path / "converted"), device="cpu")
    assert tracer.trace(again, tiny.PROMPT).n_edges == graph.n_edges
    before = resolve(str(model), str(folder)).fingerprint
    settings = next(folder.rglob("cfg.json"))
    settings.write_text(settings.read_text() + " ")
    assert resolve(str(model), str(folder)).fingerprint != before


@pytest.mark.parametrize(
    ("write", "settings", "message"),
    [
        (sparsify, {"transcode": False}, "is a sparse autoencoder, which reconstructs what it"),
        (sparsify, {"activation": "groupmax"}, "has activation 'groupmax' and normalize_io False"),
        (sparsify, {"normalize_io": True}, "expected topk of inputs that are not normalised"),
        (sparsify, {"k": None}, "has k None: expected a whole number from 1"),
        (saelens, {"architecture": "jumprelu"}, "is a sparse autoencoder"),
        (saelens, {"normalize_activations": "layer_norm"}, "has normalize_activations 'layer_norm"),
        (saelens, {"apply_b_dec_to_input": True}, "has apply_b_dec_to_input True, which changes"),
    ],
)
def test_what_would_give_wrong_numbers_is_refused(
    write: Callable[..., Path], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TranscoderError, match=message):
        opened(write(tmp_path / "set", **settings))


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("blocks.LAYER.attn.hook_z", "has hook_name 'blocks.0.attn.hook_z': expected one of"),
        ("blocks.7.mlp.hook_in", "reads layer 7 and writes to layer 0"),
    ],
)
def test_a_transcoder_of_something_else_is_refused(hook: str, message: str, tmp_path: Path) -> None:
    folder = saelens(tmp_path / "set", True, hook_name=hook)
    with pytest.raises(TranscoderError, match=message):
        opened(folder)


def test_a_set_with_a_missing_layer_is_refused(tmp_path: Path) -> None:
    folder = sparsify(tmp_path / "set")
    (folder / "layers.1.mlp" / "sae.safetensors").unlink()
    with pytest.raises(TranscoderError, match=r"has transcoders for layers 0, 2: expected one for"):
        opened(folder)


def test_an_attention_transcoder_of_sparsify_is_refused(tmp_path: Path) -> None:
    folder = sparsify(tmp_path / "set")
    (folder / "layers.1.mlp").rename(folder / "layers.1.self_attn")
    with pytest.raises(TranscoderError, match=re.escape("layers.1.self_attn is not the transc")):
        opened(folder)
