"""The number of features is read from a file's header, on the hub or on this disk."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import tiny
from hub_server import HubServer
from published_layouts import LAYOUTS

from tracer.catalog.downloads import plan_set
from tracer.catalog.feature_counts import features_here, features_planned
from tracer.catalog.resolve import resolve

CONFIG = (
    "model_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\n"
    "feature_output_hook: mlp.hook_out\n"
)
SAFETENSORS = sorted(set(LAYOUTS) - {"Gemma Scope"})


@pytest.mark.parametrize("layout", SAFETENSORS)
def test_it_is_read_from_the_hub_without_the_tensors(
    hub: HubServer, tmp_path: Path, layout: str
) -> None:
    hub.add("lab/set", LAYOUTS[layout](tmp_path / "set"))
    assert features_planned(plan_set("lab/set")) == tiny.N_FEATURES
    tensors = [r for r in hub.requests if "resolve" in r.path and ".safetensors" in r.path]
    assert tensors and all(request.byte_range for request in tensors)


@pytest.mark.parametrize("layout", SAFETENSORS)
def test_it_is_read_from_a_folder(tmp_path: Path, layout: str) -> None:
    model, folder = tiny.save_model(tmp_path / "model"), LAYOUTS[layout](tmp_path / "set")
    assert features_here(resolve(str(model), str(folder))) == tiny.N_FEATURES


def test_it_is_unknown_for_npz_files_and_damaged_files(hub: HubServer, tmp_path: Path) -> None:
    hub.add("lab/npz", LAYOUTS["Gemma Scope"](tmp_path / "npz"))
    assert features_planned(plan_set("lab/npz")) is None
    folder = LAYOUTS["per-layer"](tmp_path / "set")
    (folder / "layer_0.safetensors").write_bytes(b"\xff" * 64)
    hub.add("lab/set", folder)
    assert features_planned(plan_set("lab/set")) is None
    model = tiny.save_model(tmp_path / "model")
    assert features_here(resolve(str(model), str(folder))) is None


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"7",
        b"[" * 100_000,
        b'{"W_enc": 7}',
        b'{"W_enc": {"shape": []}}',
        b'{"W_enc": {"shape": [-3, 4]}}',
        b'{"W_enc": {"shape": ["a", 300000000000]}}',
        b'{"W_enc": {"shape": [%s]}}' % (b"9" * 5000),
    ],
)
def test_a_malformed_header_gives_no_count(hub: HubServer, tmp_path: Path, header: bytes) -> None:
    folder = LAYOUTS["per-layer"](tmp_path / "set")
    (folder / "layer_0.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    hub.add("lab/set", folder)
    assert features_planned(plan_set("lab/set")) is None
    model = tiny.save_model(tmp_path / "model")
    assert features_here(resolve(str(model), str(folder))) is None


def test_only_the_header_is_read_from_the_hub(hub: HubServer, tmp_path: Path) -> None:
    tensors = {"W_enc": {"dtype": "F32", "shape": [7, 10], "data_offsets": [0, 280]}}
    header = json.dumps(tensors).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(10**6)
    hub.add("lab/set", {"config.yaml": CONFIG, "layer_0.safetensors": content})
    assert features_planned(plan_set("lab/set")) == 7
    ranges = [r.byte_range for r in hub.asked("layer_0.safetensors")]
    assert ranges == ["bytes=0-7", f"bytes=8-{7 + len(header)}"]
