"""A model and a transcoder set as files, for tests that never open them."""

from __future__ import annotations

from pathlib import Path

from feature_files import save_index
from hub_server import HubServer

from cache import ModelChoice

BIG = bytes(range(256)) * 20_000  # 5 MB
MODEL, SET = "lab/model", "lab/set"
THERE = ModelChoice(MODEL, SET)
CONFIG = """
model_kind: transcoder_set
feature_input_hook: mlp.hook_in
feature_output_hook: mlp.hook_out
"""


def publish(hub: HubServer, folder: Path) -> None:
    """Publish the model and the set on the Hub, with feature examples."""
    hub.add(MODEL, {"config.json": "{}", "model.safetensors": BIG})
    save_index(folder)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "layer_0.safetensors").write_bytes(b"tensors")
    hub.add(SET, folder)


def local_choice(root: Path) -> ModelChoice:
    """Create a model and an indexed set in two folders."""
    (root / "model").mkdir(parents=True)
    (root / "model" / "config.json").write_text("{}")
    (save_index(root / "set") / "config.yaml").write_text(CONFIG)
    return ModelChoice(str(root / "model"), str(root / "set"))
