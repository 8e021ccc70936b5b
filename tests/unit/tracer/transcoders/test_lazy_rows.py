"""Transcoders left in their files give the same graph, and only the needed rows are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from published_layouts import LAYOUTS
from safetensors.torch import load_file, save_file

import tracer
from tracer.errors import TranscoderError
from tracer.transcoders import load, transcoder
from tracer.transcoders.lazy_rows import StoredRows
from tracer.transcoders.tensor_files import SafetensorsFile, StoredTensor
from tracer.transcoders.transcoder import Transcoder


@pytest.mark.parametrize("kind", ["transcoder_set", "cross_layer_transcoder"])
def test_a_set_left_in_its_files_gives_the_same_graph(tmp_path: Path, kind: str) -> None:
    folder = str(tiny.save_model(tmp_path / "model"))
    transcoders = str(tiny.save_transcoders(tmp_path / "set", kind))
    eager = tracer.load(folder, transcoders, device="cpu")
    lazy = tracer.load(folder, transcoders, "cpu", lazy_decoders=True, lazy_encoders=True)
    assert isinstance(lazy.transcoders[0].W_dec, StoredRows)
    expected, actual = tracer.trace(eager, tiny.PROMPT), tracer.trace(lazy, tiny.PROMPT)
    assert torch.equal(actual.to_dense(), expected.to_dense())
    edit = [tracer.Intervention(1, 2, 5, 3.0)]
    before = tracer.intervene(eager, tiny.PROMPT, edit).edited_logits
    assert tracer.intervene(lazy, tiny.PROMPT, edit).edited_logits == pytest.approx(before)
    assert torch.equal(lazy.transcoders[1].decoder(), eager.transcoders[1].decoder())


def test_large_sets_stay_in_their_files_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.save_transcoders(tmp_path / "set")
    size = tiny.N_LAYERS * tiny.N_FEATURES * tiny.D_MODEL * 4
    for limit, stored in ((size, False), (size - 1, True)):
        monkeypatch.setattr(load, "LARGE_DECODERS", limit)
        opened = load.load_transcoders(folder, tiny.N_LAYERS, tiny.D_MODEL)
        assert isinstance(opened[0].W_dec, StoredRows) is stored
        assert isinstance(opened[0].W_enc, torch.Tensor)


def test_only_the_requested_rows_are_read_in_their_order(tmp_path: Path) -> None:
    matrix = torch.arange(60.0).view(20, 3).bfloat16()
    save_file({"W": matrix}, tmp_path / "file")
    file = SafetensorsFile(tmp_path / "file")
    stored = StoredRows(StoredTensor(file, "W"), "cpu", torch.float32)
    read: list[slice] = []

    class Spy:
        def get_slice(self, name: str) -> Spy:
            return self

        def __getitem__(self, index: tuple[slice]) -> torch.Tensor:
            read.extend(index)
            return inner.get_slice("W")[index]

    inner, file._file = file._file, Spy()
    requested = torch.tensor([7, 3, 7, 4, 19])
    assert torch.equal(stored[requested], matrix.float()[requested])
    assert read == [slice(3, 5), slice(7, 8), slice(19, 20)]
    assert stored[torch.tensor([], dtype=torch.long)].shape == (0, 3)


@pytest.mark.parametrize("name", ["W_enc", "W_dec"])
def test_damage_is_found_when_it_is_read(tmp_path: Path, name: str) -> None:
    """A damaged encoder used to switch features off: a comparison with NaN is never true."""
    folder = tiny.save_model(tmp_path / "model")
    transcoders = tiny.save_transcoders(tmp_path / "set")
    path = transcoders / "layer_1.safetensors"
    tensors = load_file(path)
    tensors[name][:] = float("nan")
    save_file(tensors, path)
    model = tracer.load(
        str(folder), str(transcoders), "cpu", lazy_decoders=True, lazy_encoders=True
    )
    with pytest.raises(TranscoderError, match=rf"{name} in .*layer_1.*not finite"):
        tracer.trace(model, tiny.PROMPT)


@pytest.mark.parametrize("layout", ["per-layer", "Gemma Scope 2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_encoder_in_its_file_is_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, dtype: torch.dtype
) -> None:
    folder = LAYOUTS[layout](tmp_path / "set")

    def opened(lazy: bool) -> Transcoder:
        return load.load_transcoders(
            folder, tiny.N_LAYERS, tiny.D_MODEL, dtype=dtype, lazy_encoders=lazy
        )[1]

    x = torch.randn(5, tiny.D_MODEL, generator=torch.Generator().manual_seed(0))
    expected = opened(lazy=False).preactivations(x)
    monkeypatch.setattr(transcoder, "_ENCODER_VALUES_AT_ONCE", 7 * tiny.D_MODEL)
    monkeypatch.setattr(StoredRows, "whole", lambda stored: pytest.fail("read at once"))
    assert torch.allclose(opened(lazy=True).preactivations(x), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["transcoder_set", "cross_layer_transcoder"])
def test_a_set_with_more_layers_than_the_model_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tiny.save_transcoders(tmp_path / "set", kind)
    with pytest.raises(TranscoderError, match="more layers than the model's 2"):
        load.load_transcoders(folder, tiny.N_LAYERS - 1, tiny.D_MODEL)


def test_watching_everything_returns_what_was_active_before_or_after(
    open_tiny: Callable[..., tracer.Model],
) -> None:
    model = open_tiny()
    graph = tracer.trace(model, tiny.PROMPT)
    edit = tracer.Intervention(0, 2, 5, 9.0)
    result = tracer.intervene(model, tiny.PROMPT, [edit], watch="all")
    before = {node: pair[0] for node, pair in result.activations.items() if pair[0]}
    index = graph.index
    expected = {index.node(row): float(graph.activations[row]) for row in range(index.n_features)}
    assert before == pytest.approx(expected, abs=1e-5)
    some = list(result.activations)[::7]
    watched = tracer.intervene(model, tiny.PROMPT, [edit], watch=some).activations
    for node in some:
        assert watched[node] == pytest.approx(result.activations[node], abs=1e-5)
    assert any(not pair[0] and pair[1] for pair in result.activations.values())
