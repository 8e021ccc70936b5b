"""How many features a set has is known from a few bytes, before it is downloaded and after."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from hub_server import HubServer
from published_layouts import LAYOUTS

from tracer.catalog.downloads import plan_set
from tracer.catalog.feature_counts import features_here, features_planned
from tracer.catalog.resolve import resolve

SAFETENSORS = sorted(set(LAYOUTS) - {"Gemma Scope"})


@pytest.mark.parametrize("layout", SAFETENSORS)
def test_it_is_read_from_the_first_bytes_of_the_first_file(
    hub: HubServer, tmp_path: Path, layout: str
) -> None:
    hub.add("lab/set", LAYOUTS[layout](tmp_path / "set"))
    assert features_planned(plan_set("lab/set")) == tiny.N_FEATURES
    tensors = [r for r in hub.requests if "resolve" in r.path and ".safetensors" in r.path]
    assert tensors and all(request.byte_range for request in tensors)


@pytest.mark.parametrize("layout", SAFETENSORS)
def test_and_from_a_folder(tmp_path: Path, layout: str) -> None:
    model, folder = tiny.save_model(tmp_path / "model"), LAYOUTS[layout](tmp_path / "set")
    assert features_here(resolve(str(model), str(folder))) == tiny.N_FEATURES


def test_an_archive_and_a_damaged_file_do_not_say(hub: HubServer, tmp_path: Path) -> None:
    hub.add("lab/npz", LAYOUTS["Gemma Scope"](tmp_path / "npz"))
    assert features_planned(plan_set("lab/npz")) is None
    folder = LAYOUTS["per-layer"](tmp_path / "set")
    (folder / "layer_0.safetensors").write_bytes(b"\xff" * 64)
    hub.add("lab/set", folder)
    assert features_planned(plan_set("lab/set")) is None
    model = tiny.save_model(tmp_path / "model")
    assert features_here(resolve(str(model), str(folder))) is None
