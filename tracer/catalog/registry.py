"""The published models and transcoder sets by name, and what they take. No torch, no network.

`registry.yaml` beside this file lists what is published; a user's own file of the same form adds to
it (:func:`tracer.paths.user_registry`). Sizes follow from shapes; the hub says the exact ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import yaml

from tracer import paths
from tracer.errors import RegistryError, one_line
from tracer.files import atomic_write

DTYPE_BYTES: Final[Mapping[str, int]] = {"float32": 4, "bfloat16": 2}
KINDS: Final = ("per-layer", "cross-layer")
_PUBLISHED: Final = Path(__file__).with_name("registry.yaml")
_MODEL_KEYS: Final = {
    "name": str, "repo": str, "parameters": int, "layers": int, "d_model": int, "gated": bool,
    "licence": str, "sets": list,
}  # fmt: skip
_SET_KEYS: Final = {
    "name": str, "repo": str, "kind": str, "features": int, "stored": int, "by_rows": bool,
    "examples": bool, "neuronpedia": str,
}  # fmt: skip


@dataclass(frozen=True)
class ListedSet:
    """A transcoder set that can be opened by name."""

    name: str
    reference: str
    """``org/name[/sub/folder][@revision]``, or a folder."""
    cross_layer: bool
    features: int | None
    """Per layer; None where it is not known before the files are there."""
    stored: int
    """Bytes a number takes in the published files."""
    by_rows: bool
    """Whether its files can be read row by row; decoders are held whole where not."""
    examples: bool | None
    """Whether its repository holds feature examples; None where nobody said."""
    neuronpedia: tuple[str, str] | None
    """Model and source set there."""


@dataclass(frozen=True)
class ListedModel:
    """A model that can be opened by name, with the sets that explain it."""

    name: str
    reference: str
    parameters: int | None
    layers: int | None
    d_model: int | None
    gated: bool
    licence: str
    sets: tuple[ListedSet, ...]
    own: bool = False
    """From the user's list."""


@dataclass(frozen=True)
class Needs:
    """Bytes that a model and a set take; None where a shape is not known."""

    model: int | None
    encoders: int | None
    decoders: int | None
    decoders_stay: bool
    """Whether decoders are left in their files, as large ones are where that is possible."""

    @property
    def least(self) -> int | None:
        """With the decoders left in their files, if they can be."""
        if self.model is None or self.encoders is None or self.decoders is None:
            return None
        return self.model + self.encoders + (0 if self.decoders_stay else self.decoders)

    @property
    def whole(self) -> int | None:
        """With everything in memory."""
        if self.model is None or self.encoders is None or self.decoders is None:
            return None
        return self.model + self.encoders + self.decoders


def memory(model: ListedModel, transcoders: ListedSet, dtype: str) -> Needs:
    """Memory of the weights in ``dtype`` (a key of `DTYPE_BYTES`); prompts come on top."""
    return _needs(model, transcoders, DTYPE_BYTES[dtype], DTYPE_BYTES[dtype])


def disk(model: ListedModel, transcoders: ListedSet) -> Needs:
    """About what the download takes: models are published in two bytes a number, or in four."""
    return _needs(model, transcoders, 2, transcoders.stored)


def _needs(model: ListedModel, transcoders: ListedSet, model_item: int, set_item: int) -> Needs:
    weights = None if model.parameters is None else model.parameters * model_item
    if model.layers is None or model.d_model is None or transcoders.features is None:
        return Needs(weights, None, None, transcoders.by_rows)
    matrix = transcoders.features * model.d_model * set_item
    outputs = model.layers * (model.layers + 1) // 2 if transcoders.cross_layer else model.layers
    return Needs(weights, matrix * model.layers, matrix * outputs, transcoders.by_rows)


def registry(own: bool = True) -> tuple[ListedModel, ...]:
    """The user's models, then the published ones; without ``own``, those alone.

    Raises :class:`RegistryError` naming what is wrong with the user's list.
    """
    own_file = paths.user_registry()
    mine: tuple[ListedModel, ...] = ()
    if own and own_file.is_file():
        stamp = own_file.stat()
        mine = _read(own_file, True, stamp.st_mtime_ns, stamp.st_size)
    taken = {model.name for model in mine}
    return (*mine, *(model for model in _read(_PUBLISHED, False) if model.name not in taken))


def listed(name: str, transcoders: str | None = None) -> tuple[ListedModel, ListedSet] | None:
    """The entry for a model's name or repository and a set's; without a set, the model's first.

    None where the model or the set is not listed.
    """
    for model in registry():
        if name in (model.name, model.reference):
            for entry in model.sets:
                if transcoders in (None, entry.name, entry.reference):
                    return model, entry
    return None


def add_own(model: ListedModel) -> None:
    """Put a model into the user's list, in the place of one of its name.

    Raises :class:`RegistryError` when the list cannot be read or written.
    """
    path = paths.user_registry()
    entries = [m for m in _own() if m.name != model.name]
    _write(path, [*entries, model])


def remove_own(name: str) -> None:
    """Take a model off the user's list; raises :class:`RegistryError`."""
    _write(paths.user_registry(), [m for m in _own() if m.name != name])


def _own() -> list[ListedModel]:
    return [model for model in registry() if model.own]


def _write(path: Path, models: list[ListedModel]) -> None:
    content = {"models": [_stored(model) for model in models]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, yaml.safe_dump(content, sort_keys=False))
    except OSError as error:
        raise RegistryError(f"{path} cannot be written: {error.strerror or error}") from error


def _stored(model: ListedModel) -> dict[str, Any]:
    sets = []
    for entry in model.sets:
        values: dict[str, Any] = {
            "name": entry.name,
            "repo": entry.reference,
            "kind": KINDS[entry.cross_layer],
            "features": entry.features,
            "stored": entry.stored,
            "by_rows": entry.by_rows,
            "examples": entry.examples,
            "neuronpedia": "/".join(entry.neuronpedia) if entry.neuronpedia else None,
        }
        sets.append({key: value for key, value in values.items() if value is not None})
    described: dict[str, Any] = {
        "name": model.name,
        "repo": model.reference,
        "parameters": model.parameters,
        "layers": model.layers,
        "d_model": model.d_model,
        "gated": model.gated,
        "licence": model.licence,
        "sets": sets,
    }
    return {key: value for key, value in described.items() if value is not None}


@lru_cache(maxsize=8)
def _read(path: Path, own: bool, modified: int = 0, size: int = 0) -> tuple[ListedModel, ...]:
    """``modified`` and ``size`` are arguments so that a file that changed is read again."""
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RegistryError(f"{path} cannot be read: {one_line(error)}") from error
    if stored is None:
        return ()
    known = {"models"} if own else {"models", "families"}
    if not isinstance(stored, dict) or not all(
        key in known and isinstance(value, list | None) for key, value in stored.items()
    ):
        raise RegistryError(f"{path} is no list of models: expected 'models:' with entries below")
    entries = [*(stored.get("models") or []), *_members(stored.get("families") or [])]
    found = tuple(_model(entry, own, path) for entry in entries)
    names = [model.name for model in found]
    for name in names:
        if names.count(name) > 1:
            raise RegistryError(f"{path} has two models called {name!r}: rename one")
    return found


def _members(families: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One entry for every size and tuning of a family."""
    for family in families:
        for size, shape in family["sizes"].items():
            for tuning in family["tunings"]:
                names = {"size": size, "tuning": tuning}
                yield {
                    "name": family["name"].format(**names),
                    "repo": family["repo"].format(**names),
                    "gated": family["gated"],
                    "licence": family["licence"],
                    **shape,
                    "sets": [e | {"repo": e["repo"].format(**names)} for e in family["sets"]],
                }


def _model(stored: Any, own: bool, path: Path) -> ListedModel:
    what = _checked(stored, _MODEL_KEYS, f"a model of {path}")
    return ListedModel(
        name=what["name"],
        reference=what["repo"],
        parameters=what.get("parameters"),
        layers=what.get("layers"),
        d_model=what.get("d_model"),
        gated=what.get("gated", False),
        licence=what.get("licence", ""),
        sets=tuple(_set(entry, what["name"], path) for entry in what.get("sets") or ()),
        own=own,
    )


def _set(stored: Any, model: str, path: Path) -> ListedSet:
    what = _checked(stored, _SET_KEYS, f"a set of {model} in {path}")
    kind = what.get("kind", KINDS[0])
    if kind not in KINDS:
        raise RegistryError(
            f"{what['name']} of {model} in {path} is of kind {kind!r}: expected one of "
            f"{', '.join(KINDS)}"
        )
    explained, slash, source_set = what.get("neuronpedia", "").partition("/")
    return ListedSet(
        name=what["name"],
        reference=what["repo"],
        cross_layer=kind == KINDS[1],
        features=what.get("features"),
        stored=what.get("stored", 4),
        by_rows=what.get("by_rows", True),
        examples=what.get("examples"),
        neuronpedia=(explained, source_set) if slash else None,
    )


def _checked(stored: Any, keys: Mapping[str, type], what: str) -> dict[str, Any]:
    if not isinstance(stored, dict):
        raise RegistryError(f"{what} is {stored!r}: expected keys and values")
    for key, value in stored.items():
        if key not in keys:
            raise RegistryError(f"{what} has {key!r}: known are {', '.join(keys)}")
        is_right = isinstance(value, keys[key])
        if keys[key] is int:
            is_right = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if not is_right:
            raise RegistryError(
                f"{what} has {key} {value!r}: expected {_EXPECTED.get(keys[key], 'a text')}"
            )
    for key in ("name", "repo"):
        if not stored.get(key):
            raise RegistryError(f"{what} has no {key!r}")
    return stored


_EXPECTED: Final = {int: "a whole number from 1", bool: "true or false", list: "a list"}
