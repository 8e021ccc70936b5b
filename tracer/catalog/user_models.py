"""Entries for the user's own list of models, checked as far as possible without opening them."""

from __future__ import annotations

from pathlib import Path

from tracer import paths
from tracer.catalog.embedded import EMBEDDED, embedded
from tracer.catalog.registry import ListedModel, ListedSet
from tracer.errors import HubReferenceError, ModelError, RegistryError, TranscoderError
from tracer.hub import Reference
from tracer.parsing import read_json
from tracer.transcoders.config import CONFIG
from tracer.transcoders.other_tools import is_set, read_set_config


def described(name: str, model: str, transcoders: str) -> ListedModel:
    """Return an entry for a model and a set, each a folder or a reference to the hub.

    Shapes are read from the configurations of folders. Raises :class:`RegistryError` for an invalid
    name, :class:`ModelError` or :class:`TranscoderError` for what cannot be opened.

    >>> described("mine", "org/model", "org/set@v1").sets[0].name
    'set'
    """
    if not name or embedded(name) is not None or "/" in name:
        raise RegistryError(
            f"{name!r} cannot be a model's name: expected a name without a slash, other than "
            f"{' or '.join(repr(known.name) for known in EMBEDDED)}"
        )
    folder, config_folder = paths.expand_user(model), paths.expand_user(transcoders)
    layers = d_model = None
    if paths.is_file(folder / "config.json"):
        model = str(folder.resolve())
        layers, d_model = _shape(folder / "config.json")
    else:
        _check_reference(model, "a folder with a config.json", ModelError)
    cross_layer, set_name = False, transcoders.rstrip("/").partition("@")[0].rpartition("/")[2]
    if is_set(config_folder):
        transcoders = str(config_folder.resolve())
        cross_layer = read_set_config(config_folder).cross_layer
    else:
        _check_reference(transcoders, f"a folder with a {CONFIG}", TranscoderError)
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


def _check_reference(
    text: str, folder: str, error: type[ModelError] | type[TranscoderError]
) -> None:
    try:
        Reference.parse(text)
    except HubReferenceError as refused:
        raise error(
            f"{text[:200]!r} is neither {folder} nor a reference to the hub (org/name): check the "
            "spelling"
        ) from refused
    if text.startswith(("/", "~", ".")):
        raise error(f"nothing to open at {text[:200]!r}: expected {folder}")


def _shape(path: Path) -> tuple[int | None, int | None]:
    """Return layers and width, each None if the configuration has it under an unknown name."""
    try:
        config = read_json(path)
        config = config.get("text_config") or config
        layers = config.get("num_hidden_layers", config.get("n_layer"))
        width = config.get("hidden_size", config.get("n_embd"))
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read ({error}): download the model again") from error
    return _number(layers), _number(width)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and 0 < value < 2**53 else None
