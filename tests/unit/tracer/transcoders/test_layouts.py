"""Every published layout opens with every architecture and gives the same numbers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml
from published_layouts import LAYOUTS, N_LAYERS
from safetensors.torch import load_file, save_file

import tracer
from tracer.catalog.resolve import resolve
from tracer.errors import TranscoderError
from tracer.model.bridge import Bridge
from tracer.model.model import Model
from tracer.transcoders import save
from tracer.transcoders.lazy_rows import StoredRows
from tracer.transcoders.load import load_transcoders
from tracer.transcoders.save import convert, save_transcoders
from tracer.transcoders.transcoder import TranscoderSet

ARCHITECTURES = (
    "gpt2", "llama", "gemma2", "gemma3", "gemma3_multimodal", "qwen3", "gpt_oss",
)  # fmt: skip
SAME_NUMBERS = {
    "per-layer, listed": "per-layer",
    "Gemma Scope 2": "per-layer",
    "TopK, k stored": "TopK",
    "Gemma Scope 2 cross-layer": "cross-layer",
    "Gemma Scope 2 cross-layer, stacked": "cross-layer",
}


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("models")

    def folder(architecture: str) -> Path:
        path = root / architecture
        return path if path.exists() else tiny.save_model(path, architecture)

    return folder


@pytest.fixture(scope="session")
def open_with(model_folders: Callable[[str], Path]) -> Callable[[str, Path], Model]:
    """Open a transcoder set with a model, whose bridge is opened once and kept."""
    bridges: dict[str, Bridge] = {}

    def open_one(architecture: str, transcoders: Path) -> Model:
        source = resolve(str(model_folders(architecture)), str(transcoders))
        if architecture not in bridges:
            cpu = torch.device("cpu")
            bridges[architecture] = Bridge(source.model_folder, cpu, torch.float32)
        return Model(source, bridges[architecture], opened(transcoders))

    return open_one


def opened(folder: Path, **options: bool) -> TranscoderSet:
    return load_transcoders(folder, N_LAYERS, 32, **options)


def tensors(transcoders: TranscoderSet) -> list[dict[str, torch.Tensor]]:
    layers = []
    for layer in transcoders.layers:
        W_enc = layer.W_enc.whole() if isinstance(layer.W_enc, StoredRows) else layer.W_enc
        named = {"W_enc": W_enc, "W_dec": layer.decoder(), "k": torch.tensor(layer.k or 0)}
        named |= {"b_enc": layer.b_enc, "b_dec": layer.b_dec}
        if layer.threshold is not None:
            named["threshold"] = layer.threshold
        if layer.W_skip is not None:
            named["W_skip"] = layer.W_skip
        layers.append(named)
    return layers


def assert_same(left: TranscoderSet, right: TranscoderSet) -> None:
    assert (left.read_point, left.write_point) == (right.read_point, right.write_point)
    for one, other in zip(tensors(left), tensors(right), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value.dtype == other[name].dtype
            assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layout_opens_and_traces_with_every_architecture(
    tmp_path: Path, open_with: Callable[[str, Path], Model], architecture: str, layout: str
) -> None:
    folder = LAYOUTS[layout](tmp_path / "set")
    graph = tracer.trace(open_with(architecture, folder), tiny.IDS)
    assert graph.n_layers == N_LAYERS
    assert {int(layer) for layer in graph.features[:, 0]} == set(range(N_LAYERS))
    pruned = tracer.prune(graph)
    assert any(pruned.inputs(node) for node in pruned.nodes if node.kind == "feature")


@pytest.mark.parametrize(("layout", "plain"), SAME_NUMBERS.items())
def test_layouts_of_the_same_numbers_give_the_same_set(
    tmp_path: Path, layout: str, plain: str
) -> None:
    assert_same(opened(LAYOUTS[layout](tmp_path / "a")), opened(LAYOUTS[plain](tmp_path / "b")))


def test_gemma_scope_is_the_plain_layout_transposed(tmp_path: Path) -> None:
    plain = tiny.save_transcoders(
        tmp_path / "a", "transcoder_set", "ln2.hook_normalized", "hook_mlp_out"
    )
    assert_same(opened(LAYOUTS["Gemma Scope"](tmp_path / "b")), opened(plain))


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"Gemma Scope"}))
def test_every_layout_except_npz_can_stay_in_its_files(tmp_path: Path, layout: str) -> None:
    folder = LAYOUTS[layout](tmp_path / "set")
    lazy = opened(folder, lazy_decoders=True, lazy_encoders=True)
    in_memory = opened(folder)
    assert isinstance(lazy[0].W_dec, StoredRows)
    assert_same(lazy, in_memory)
    rows = torch.tensor([7, 3, 20])
    for left, right in zip(lazy.layers, in_memory.layers, strict=True):
        assert torch.equal(left.encoder_vectors(rows), right.encoder_vectors(rows))
        assert torch.equal(left.decoder_vectors(rows), right.decoder_vectors(rows))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_converting_changes_no_bit_and_a_second_time_no_byte(tmp_path: Path, layout: str) -> None:
    folder = LAYOUTS[layout](tmp_path / "set")
    assert convert(folder, tmp_path / "once") == N_LAYERS
    assert_same(opened(tmp_path / "once"), opened(folder))
    assert isinstance(opened(tmp_path / "once", lazy_decoders=True)[1].W_dec, StoredRows)
    convert(tmp_path / "once", tmp_path / "twice")
    once = {path.name: path.read_bytes() for path in (tmp_path / "once").iterdir()}
    assert once == {path.name: path.read_bytes() for path in (tmp_path / "twice").iterdir()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_set_is_read_back_unchanged(tmp_path: Path, layout: str) -> None:
    transcoders = opened(LAYOUTS[layout](tmp_path / "set"))
    save_transcoders(transcoders, tmp_path / "saved")
    assert_same(opened(tmp_path / "saved"), transcoders)


def test_converting_keeps_the_data_type_of_the_file(tmp_path: Path) -> None:
    folder = LAYOUTS["Gemma Scope 2"](tmp_path / "set")
    for path in folder.rglob("*.safetensors"):
        save_file({name: value.bfloat16() for name, value in load_file(path).items()}, path)
    convert(folder, tmp_path / "target")
    stored = load_file(tmp_path / "target" / "layer_0.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    folder = LAYOUTS["Gemma Scope"](tmp_path / "set")
    last = next((folder / "layer_2").rglob("params.npz"))
    with np.load(last) as archive:
        arrays = dict(archive)
    arrays["W_dec"] = np.array([{"a": 1}], dtype=object)
    np.savez(last, **arrays)
    with pytest.raises(TranscoderError, match="Python objects"):
        convert(folder, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").write_text("another file")
    with pytest.raises(TranscoderError, match="already exists"):
        convert(LAYOUTS["TopK"](tmp_path / "other"), tmp_path / "target")


def test_a_disk_that_fills_up_while_converting_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if path.name == "layer_2.safetensors":
            raise OSError(28, "No space left on device")
        save_file(tensors, path)

    monkeypatch.setattr(save, "save_file", full)
    with pytest.raises(TranscoderError, match="target cannot be written: No space left"):
        convert(LAYOUTS["Gemma Scope"](tmp_path / "set"), tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_npz_cannot_be_read_by_rows(tmp_path: Path) -> None:
    with pytest.raises(TranscoderError, match=r"params\.npz cannot be read row by row: convert"):
        opened(LAYOUTS["Gemma Scope"](tmp_path / "set"), lazy_decoders=True)


def changed(folder: Path, **changes: object) -> Path:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | changes))
    return folder


@pytest.mark.parametrize(
    ("layout", "changes", "named"),
    [
        ("per-layer", {"encoder_scale": 2, "centre": True}, "centre, encoder_scale"),
        ("per-layer", {"activation": "gelu"}, "gelu"),
        ("TopK", {"k": 0}, "k 0"),
        ("TopK", {"k": 25}, "k 25.*1 to 24"),
        ("TopK", {"k": "many"}, "many"),
        ("TopK", {"k": None}, "TopK with k None"),
        ("TopK", {"activation": "jumprelu"}, "no threshold"),
        ("per-layer", {"transcoders": "all"}, "has transcoders 'all': expected a list"),
        ("per-layer", {"transcoders": ["layer_0.safetensors"]}, "lists 1.*3 layers"),
        (
            "per-layer",
            {"transcoders": [f"hf://a/b/{i}.npz" for i in range(3)]},
            "0.npz.*on the Hub",
        ),
        ("per-layer", {"transcoders": ["hf://a/b/c.npz"] * 3}, "for two layers"),
        ("cross-layer", {"transcoders": [f"W_enc_{i}.safetensors" for i in range(3)]}, "no w_enc"),
    ],
)
def test_an_invalid_config_is_refused(
    tmp_path: Path, layout: str, changes: dict[str, object], named: str
) -> None:
    with pytest.raises(TranscoderError, match=named):
        opened(changed(LAYOUTS[layout](tmp_path / "set"), **changes))


def test_the_config_overrides_stored_thresholds(tmp_path: Path) -> None:
    folder = changed(LAYOUTS["per-layer"](tmp_path / "set"), activation="relu")
    assert opened(folder)[0].threshold is None


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"Gemma Scope 2 cross-layer, stacked"}))
def test_a_missing_layer_is_named(tmp_path: Path, layout: str) -> None:
    folder = LAYOUTS[layout](tmp_path / "set")
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".npz", ".safetensors"))
    files[-1].unlink()
    with pytest.raises(TranscoderError, match=files[-1].name.replace(".", r"\.")):
        opened(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_truncated_file_is_named(tmp_path: Path, layout: str) -> None:
    folder = LAYOUTS[layout](tmp_path / "set")
    file = max(p for p in folder.rglob("*") if p.suffix in (".npz", ".safetensors"))
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(TranscoderError, match=file.name.replace(".", r"\.")):
        opened(folder)


def test_an_unknown_tensor_is_refused(tmp_path: Path) -> None:
    path = LAYOUTS["per-layer"](tmp_path / "set") / "layer_1.safetensors"
    save_file(load_file(path) | {"log_thresholds": torch.zeros(24)}, path)
    with pytest.raises(TranscoderError, match=r"layer_1\.safetensors has log_thresholds: unrec"):
        opened(path.parent)


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("W_enc", lambda t: torch.tensor(3.0), r"W_enc of layer 1 .* shape \(\)"),
        ("W_enc", lambda t: t[:0], r"W_enc of layer 1 .* shape \(0, 32\)"),
        ("W_enc", lambda t: (t * 10).to(torch.int8), "W_enc of layer 1 .* int8: .*scales"),
        ("W_dec", lambda t: t.to(torch.complex64), "W_dec of layer 1 .* complex64"),
        ("k", lambda t: torch.zeros(0), r"k of layer 1 .* is \[\]"),
        ("k", lambda t: torch.tensor([2.5]), r"k of layer 1 .* is \[2.5\]"),
        ("k", lambda t: torch.tensor(float("nan")), r"k of layer 1 .* is \[nan\]"),
    ],
)
def test_a_tensor_of_impossible_shape_type_or_value_is_refused(
    tmp_path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor], named: str
) -> None:
    path = LAYOUTS["TopK, k stored"](tmp_path / "set") / "layer_1.safetensors"
    tensors = load_file(path)
    save_file(tensors | {name: change(tensors[name])}, path)
    for lazy in (False, True):
        with pytest.raises(TranscoderError, match=named):
            opened(path.parent, lazy_decoders=lazy)


@pytest.mark.parametrize("name", ["threshold", "W_skip"])
def test_a_set_with_layers_of_two_kinds_is_refused(tmp_path: Path, name: str) -> None:
    path = LAYOUTS["cross-layer"](tmp_path / "set") / "W_enc_1.safetensors"
    tensors = load_file(path)
    del tensors[f"{name}_1"]
    save_file(tensors, path)
    with pytest.raises(TranscoderError, match=f"layer 1 .* has no {name}, layer 0 has one"):
        opened(path.parent)


def test_a_stacked_file_with_too_few_layers_is_named(tmp_path: Path) -> None:
    folder = LAYOUTS["Gemma Scope 2 cross-layer, stacked"](tmp_path / "set")
    path = folder / "params.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"w_dec": tensors["w_dec"][:2].contiguous()}, path)
    with pytest.raises(TranscoderError, match=r"params\.safetensors cannot be read"):
        opened(folder)
    with pytest.raises(TranscoderError, match=r"params\.safetensors cannot be read"):
        convert(folder, tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(("layout", "name"), [("per-layer", "layer_1"), ("cross-layer", "W_enc_1")])
def test_a_set_with_a_gap_is_not_converted(tmp_path: Path, layout: str, name: str) -> None:
    folder = LAYOUTS[layout](tmp_path / "set")
    (folder / f"{name}.safetensors").unlink()
    with pytest.raises(TranscoderError, match=rf"but not {name}\.safetensors"):
        convert(folder, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_instruction_tuned_gemma_3_has_no_features_at_its_first_four_tokens(
    tmp_path: Path, model_folders: Callable[[str], Path]
) -> None:
    folder = changed(LAYOUTS["Gemma Scope 2"](tmp_path / "set"), model_name="google/gemma-3-1b-it")
    model = tracer.load(str(model_folders("gemma3")), str(folder), device="cpu")
    graph = tracer.trace(model, tiny.IDS, force=True)
    assert model.first_position == 4
    assert int(graph.features[:, 1].min()) == 4
    sources = {graph.index.node(int(row)) for row in graph.sources}
    assert {node.position for node in sources if node.kind == "error"} == {4, 5}
    assert {node.position for node in sources if node.kind == "token"} == set(range(6))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_opening_a_model_starts_no_other_program(
    tmp_path: Path,
    model_folders: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
) -> None:
    """transformer-lens would run pip to install torchvision for a multimodal model."""
    folder = model_folders(architecture)
    transcoders = LAYOUTS["per-layer"](tmp_path / "set")
    started: list[object] = []

    def refuse(*arguments: object, **options: object) -> None:
        started.append(arguments)
        raise AssertionError(f"opening a model started {arguments}")

    for name in ("Popen", "run", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, refuse)
    monkeypatch.setattr("os.system", refuse)
    monkeypatch.setattr("os.execv", refuse)
    monkeypatch.setattr("os.posix_spawn", refuse)
    tracer.load(str(folder), str(transcoders), device="cpu")
    assert started == []
