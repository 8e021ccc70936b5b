"""Opening models and encoding prompts; whatever fails is explained in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, MambaConfig, MambaForCausalLM

import tracer
from tracer.catalog.resolve import resolve
from tracer.errors import (
    EmptyPromptError,
    ModelError,
    PromptError,
    PromptTooLongError,
    TranscoderError,
    UnknownTokenError,
)
from tracer.model.model import Model


def test_bos_is_prepended_to_text_but_not_to_token_ids(model: Model) -> None:
    assert model.encode("w0 w2") == (1, 4, 6)
    assert model.encode("<bos> w0 w2") == (1, 4, 6)
    assert model.encode([4, 6]) == (4, 6)


@pytest.mark.parametrize(
    ("prompt", "error", "named"),
    [
        ("", EmptyPromptError, "empty"),
        (" \n\t", EmptyPromptError, "empty"),
        ([], EmptyPromptError, "no tokens"),
        ("w1 " * 16, PromptTooLongError, "17 tokens.*at most 16"),
        ("w1 Zürich w2", UnknownTokenError, "“Zürich”"),
        ("w1 <script>alert(1)</script>", UnknownTokenError, "script"),
        ("w1 🦊", UnknownTokenError, "🦊"),
        ([1, 60], PromptError, "token 60 does not exist"),
        ([1, -2], PromptError, "token -2 does not exist"),
    ],
)
def test_an_invalid_prompt_is_refused(
    model: Model, prompt: str | list[int], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        model.encode(prompt)


def test_a_prompt_without_tokens_is_refused(open_tiny: Callable[..., Model]) -> None:
    """Qwen 2 folders get a byte-pair tokenizer, which drops all of a word-level vocabulary."""
    with pytest.raises(PromptError, match="returned no tokens for this prompt"):
        open_tiny("qwen2").encode(tiny.PROMPT)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing"):
        tracer.load(str(tmp_path / "missing"), "x")
    folder = tiny.save_model(tmp_path / "model")
    with pytest.raises(TranscoderError, match="no transcoders named"):
        tracer.load(str(folder))
    with pytest.raises(TranscoderError, match="absent"):
        tracer.load(str(folder), str(tmp_path / "absent"))
    with pytest.raises(ModelError, match="float64"):
        tracer.load(str(folder), str(tmp_path), dtype="float64")  # type: ignore[arg-type]


def test_damaged_weights_are_one_sentence(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "model")
    transcoders = tiny.save_transcoders(tmp_path / "set")
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="cannot be opened"):
        tracer.load(str(folder), str(transcoders), device="cpu")


def configure(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_missing_weights_are_an_error_not_random_numbers(tmp_path: Path) -> None:
    transcoders = str(tiny.save_transcoders(tmp_path / "set"))
    without = tiny.save_model(tmp_path / "without")
    weights = load_file(without / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, without / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"weight model\.layers\.1\.mlp\.down_proj\.weight is"):
        tracer.load(str(without), transcoders, device="cpu")
    deeper = tiny.save_model(tmp_path / "deeper")
    configure(deeper / "config.json", num_hidden_layers=4)
    with pytest.raises(ModelError, match=r"weight model\.layers\.3.* and 8 others are missing"):
        tracer.load(str(deeper), transcoders, device="cpu")


def test_mismatched_shapes_and_a_missing_tokenizer_are_one_line(tmp_path: Path) -> None:
    transcoders = str(tiny.save_transcoders(tmp_path / "set"))
    folder = tiny.save_model(tmp_path / "model")
    configure(folder / "config.json", hidden_size=64)
    with pytest.raises(ModelError, match=r"other shapes than its config\.json says"):
        tracer.load(str(folder), transcoders, device="cpu")
    configure(folder / "config.json", hidden_size=32)
    for path in folder.glob("token*"):
        path.unlink()
    with pytest.raises(ModelError, match="tokenizer") as raised:
        tracer.load(str(folder), transcoders, device="cpu")
    assert "\n" not in str(raised.value)


def test_unsupported_architectures_are_refused(
    tmp_path: Path,
) -> None:
    folder, transcoders = tiny.save_model(tmp_path / "model"), str(tmp_path / "set")
    tiny.save_transcoders(tmp_path / "set")
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3}
    shape = BertConfig(**sizes, num_attention_heads=4, intermediate_size=48)
    BertForMaskedLM(shape).save_pretrained(folder)
    with pytest.raises(ModelError, match="BertForMaskedLM is not a supported causal language"):
        tracer.load(str(folder), transcoders, device="cpu")
    MambaForCausalLM(MambaConfig(**sizes)).save_pretrained(folder)
    model = tracer.load(str(folder), transcoders, device="cpu")
    with pytest.raises(ModelError, match=r"architecture Mamba\w+ is not supported"):
        tracer.trace(model, tiny.PROMPT)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "model")
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"w7": 11', '"w7": 1011'))
    model = tracer.load(str(folder), str(tiny.save_transcoders(tmp_path / "set")), device="cpu")
    with pytest.raises(ModelError, match="returned token 1011, the model has token ids 0 to 59"):
        model.encode(tiny.PROMPT)


@pytest.fixture
def broken_set(tmp_path: Path) -> Callable[[str, torch.Tensor | None], str]:
    """Save a per-layer set with one tensor of layer 1 replaced, or removed."""

    def make(name: str, value: torch.Tensor | None) -> str:
        folder = tiny.save_transcoders(tmp_path / "set")
        path = folder / "layer_1.safetensors"
        tensors = load_file(path)
        tensors.pop(name)
        if value is not None:
            tensors[name] = value
        save_file(tensors, path)
        tiny.save_model(tmp_path / "model")
        return str(folder)

    return make


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("b_dec", None, "layer 1.*no b_dec"),
        ("b_dec", torch.full((32,), float("nan")), "b_dec of layer 1.*not finite"),
        ("W_dec", torch.zeros(24, 31), r"W_dec of layer 1.*\(24, 31\).*\(24, 32\)"),
    ],
)
def test_transcoders_that_do_not_fit_are_refused(
    tmp_path: Path,
    broken_set: Callable[[str, torch.Tensor | None], str],
    name: str,
    value: torch.Tensor | None,
    named: str,
) -> None:
    folder = broken_set(name, value)
    with pytest.raises(TranscoderError, match=named):
        tracer.load(str(tmp_path / "model"), folder, device="cpu")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("model_kind: cloud", "cloud"),
        ("- a list", "model_kind"),
        (": {", "cannot be read"),
        ("model_kind: transcoder_set\nfeature_input_hook: ear", "ear"),
    ],
)
def test_an_invalid_config_is_one_sentence(tmp_path: Path, config: str, named: str) -> None:
    folder = tiny.save_transcoders(tmp_path / "set")
    tiny.save_model(tmp_path / "model")
    (folder / "config.yaml").write_text(config)
    with pytest.raises(TranscoderError, match=named) as raised:
        tracer.load(str(tmp_path / "model"), str(folder), device="cpu")
    assert "\n" not in str(raised.value)


def test_a_missing_or_truncated_layer_is_named(tmp_path: Path) -> None:
    folder = tiny.save_transcoders(tmp_path / "set")
    tiny.save_model(tmp_path / "model")
    path = folder / "layer_2.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TranscoderError, match=r"layer_2\.safetensors"):
        tracer.load(str(tmp_path / "model"), str(folder), device="cpu")
    path.unlink()
    with pytest.raises(TranscoderError, match=r"layer_2\.safetensors"):
        tracer.load(str(tmp_path / "model"), str(folder), device="cpu")


def test_the_fingerprint_changes_with_the_weights(tmp_path: Path) -> None:
    model, folder = tiny.save_model(tmp_path / "model"), tiny.save_transcoders(tmp_path / "set")
    before = resolve(str(model), str(folder)).fingerprint
    assert resolve(str(model), str(folder)).fingerprint == before
    path = folder / "layer_0.safetensors"
    tensors = load_file(path)
    tensors["b_enc"][0] += 1
    save_file(tensors, path)
    assert resolve(str(model), str(folder)).fingerprint != before


def test_opening_a_model_cannot_install_packages(model: Model) -> None:
    from transformer_lens.model_bridge.sources.transformers import helpers

    assert helpers._ensure_torchvision() is False
