from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peer_graphs import PLACES

from tracer.catalog.resolve import resolve
from tracer.features.lookup import FeatureLookup
from tracer.model.bridge import Bridge
from tracer.model.device import DeviceChoice
from tracer.model.model import Model
from tracer.transcoders.load import load_transcoders


@pytest.fixture(scope="session")
def open_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """Open, and keep, a small random model with a transcoder set of the given kind.

    Sets of one architecture share its bridge, which takes much longer to open than they do.
    """
    root = tmp_path_factory.mktemp("tiny")
    opened: dict[tuple[str, ...], Model] = {}
    bridges: dict[str, Bridge] = {}

    def model_folder(architecture: str) -> Path:
        folder = root / architecture
        return folder if folder.exists() else tiny.save_model(folder, architecture)

    def open_one(
        architecture: str = "llama",
        kind: str = "transcoder_set",
        read: str = "mlp.hook_in",
        write: str = "mlp.hook_out",
        activation: str = "jumprelu",
        skip: bool = False,
    ) -> Model:
        key = (architecture, kind, read, write, activation, str(skip))
        if key not in opened:
            transcoders = root / "-".join(key)
            tiny.save_transcoders(transcoders, kind, read, write, activation, skip)
            source = resolve(str(model_folder(architecture)), str(transcoders))
            if architecture not in bridges:
                cpu = torch.device("cpu")
                bridges[architecture] = Bridge(source.model_folder, cpu, torch.float32)
            bridge = bridges[architecture]
            loaded = load_transcoders(transcoders, bridge.n_layers, bridge.d_model)
            choice = DeviceChoice(bridge.device, "requested", "", None)
            opened[key] = Model(source, bridge, loaded, choice)
        return opened[key]

    return open_one


@pytest.fixture
def model(open_tiny: Callable[..., Model]) -> Model:
    return open_tiny()


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., FeatureLookup]:
    """Return a function that opens a feature lookup; all share one cache folder."""

    def open_them(
        folder: Path | None = None,
        commit: str | None = None,
        neuronpedia: bool = True,
        hub_folder: str = "",
        **more: Any,
    ) -> FeatureLookup:
        return FeatureLookup.open(
            folder or tmp_path / "nothing",
            hub=None if commit is None else ("org/set", hub_folder, commit),
            neuronpedia=("model", "set") if neuronpedia else None,
            cache_folder=tmp_path / "cache",
            **more,
        )

    return open_them


@pytest.fixture
def peer_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the records importable under the names that circuit-tracer's files use."""
    for record, module in PLACES.items():
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name not in sys.modules:
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setattr(sys.modules[module], record.__name__, record, raising=False)
        monkeypatch.setattr(record, "__module__", module)
