"""An entry for a person's own list of models, checked as far as that goes without opening them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tracer import paths
from tracer.catalog.registry import ListedModel, ListedSet
from tracer.catalog.resolve import ATLAS
from tracer.errors import HubReferenceError, ModelError, RegistryError, TranscoderError
from tracer.hub import Reference
from tracer.transcoders.config import CONFIG, read_config


def described(name: str, model: str, transcoders: str) -> ListedModel:
    """A model and a set, each a folder or a place on the hub, under a name.

    Shapes are read from the configurations of folders. Raises :class:`RegistryError`,
    :class:`ModelError` or :class:`TranscoderError` for what cannot be opened.
    """
    if not name or name == ATLAS or "/" in name:
        raise RegistryError(f"{name!r} cannot be a model's name: choose a word that is not taken")
    folder, config_folder = paths.expand_user(model), paths.expand_user(transcoders)
    layers = d_model = None
    if paths.is_file(folder / "config.json"):
        model = str(folder.resolve())
        layers, d_model = _shape(folder / "config.json")
    else:
        _check_place(model, "a folder that holds a config.json", ModelError)
    cross_layer, set_name = False, transcoders.rstrip("/").partition("@")[0].rpartition("/")[2]
    if paths.is_file(config_folder / CONFIG):
        transcoders = str(config_folder.resolve())
        cross_layer = read_config(config_folder).cross_layer
    else:
        _check_place(transcoders, f"a folder that holds a {CONFIG}", TranscoderError)
    entry = ListedSet(
        name=set_name or "transcoders",
        reference=transcoders,
        cross_layer=cross_layer,
        features=None,
        stored=4,
        by_rows=True,
        examples=None,
        neuronpedia=None,
    )
    return ListedModel(name, model, None, layers, d_model, False, "", (entry,), own=True)


def _check_place(text: str, else_: str, error: type[ModelError] | type[TranscoderError]) -> None:
    try:
        Reference.parse(text)
    except HubReferenceError as refused:
        raise error(f"{text!r} is neither {else_} nor org/name on the hub") from refused
    if text.startswith(("/", "~", ".")):
        raise error(f"there is nothing to open at {text!r}: expected {else_}")


def _shape(path: Path) -> tuple[int | None, int | None]:
    """Layers and width, where the configuration says them under a name that is known."""
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config = config.get("text_config") or config
        layers = config.get("num_hidden_layers", config.get("n_layer"))
        width = config.get("hidden_size", config.get("n_embd"))
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read ({error}): fetch the model again") from error
    return _number(layers), _number(width)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
