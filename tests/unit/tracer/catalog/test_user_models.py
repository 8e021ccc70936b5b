"""An entry for the user's own list is checked before it is added."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from tracer.catalog.user_models import described
from tracer.errors import ModelError, RegistryError, TracerError, TranscoderError


def test_shapes_and_kind_are_read_from_folders(tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "model", "gemma3_multimodal")
    transcoders = tiny.save_transcoders(tmp_path / "my-set", "cross_layer_transcoder")
    entry = described("mine", str(model), str(transcoders))
    assert (entry.reference, entry.layers, entry.d_model) == (str(model), 3, 32)
    (listed,) = entry.sets
    assert (listed.name, listed.reference, listed.cross_layer) == (
        "my-set",
        str(transcoders),
        True,
    )
    gpt2 = tiny.save_model(tmp_path / "gpt2", "gpt2")
    assert described("mine", str(gpt2), str(transcoders)).d_model == 32


def test_references_to_the_hub_are_kept_unchanged() -> None:
    entry = described("mine", "lab/model@v2", "lab/sets/width_16k@main")
    assert (entry.reference, entry.layers) == ("lab/model@v2", None)
    assert (entry.sets[0].name, entry.sets[0].reference) == ("width_16k", "lab/sets/width_16k@main")


@pytest.mark.parametrize(
    ("name", "model", "transcoders", "error", "named"),
    [
        ("", "a/b", "c/d", RegistryError, "cannot be a model's name"),
        ("atlas", "a/b", "c/d", RegistryError, "atlas"),
        ("a/b", "a/b", "c/d", RegistryError, "a/b"),
        ("mine", "nonsense", "c/d", ModelError, "neither a folder.*nor a reference to the hub"),
        ("mine", "./gone", "c/d", ModelError, "gone"),
        ("mine", "a/b", "", TranscoderError, "neither a folder"),
        ("mine", "a/b", "/no/where", TranscoderError, "/no/where"),
    ],
)
def test_a_model_or_set_that_cannot_be_opened_is_refused(
    name: str, model: str, transcoders: str, error: type[TracerError], named: str
) -> None:
    with pytest.raises(error, match=named):
        described(name, model, transcoders)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"n_layer": %s}' % ("9" * 5000)])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        described("mine", str(tmp_path), "a/b")
