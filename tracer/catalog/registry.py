"""The published models and transcoder sets by name, and the memory they need. No torch, no network.

`registry.yaml` next to this file lists what is published. A user's own file of the same form adds
to it (:func:`tracer.paths.user_registry`). Sizes are computed from shapes; the hub has exact ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError

from tracer import paths
from tracer.errors import RegistryError
from tracer.files import atomic_write
from tracer.parsing import Fields, problem, read_yaml, shortened

DTYPE_BYTES: Final[Mapping[str, int]] = {"float32": 4, "bfloat16": 2}
KINDS: Final = ("per-layer", "cross-layer")
SHORT_NAMES: Final = {
    "gemma": "mntss/gemma-scope-transcoders",
    "llama": "mntss/transcoder-Llama-3.2-1B",
    "mwhanna/gemma-scope-transcoders": "mntss/gemma-scope-transcoders",
}
"""circuit-tracer's short names of transcoder sets, and an older repository, by repository."""
_PUBLISHED: Final = Path(__file__).with_name("registry.yaml")


@dataclass(frozen=True)
class ListedSet:
    """A transcoder set that can be opened by name."""

    name: str
    reference: str
    """``org/name[/sub/folder][@revision]``, or a folder."""
    cross_layer: bool
    features: int | None
    """Features per layer; None if unknown before the files are downloaded."""
    stored: int
    """Bytes per number in the published files."""
    by_rows: bool
    """Whether single rows can be read from its files; if not, decoders are loaded completely."""
    examples: bool | None
    """Whether its repository has feature examples; None if unknown."""
    neuronpedia: tuple[str, str] | None
    """Its model and source set on Neuronpedia."""
    chat: bool = False
    """Whether it was trained on chats only: other text has no features at its beginning."""


@dataclass(frozen=True)
class ListedModel:
    """A model that can be opened by name, with its transcoder sets."""

    name: str
    reference: str
    parameters: int | None
    layers: int | None
    d_model: int | None
    gated: bool
    licence: str
    sets: tuple[ListedSet, ...]
    own: bool = False
    """Whether it is from the user's list."""


@dataclass(frozen=True)
class Needs:
    """Bytes that a model and a transcoder set take; None where a shape is unknown."""

    model: int | None
    encoders: int | None
    decoders: int | None
    decoders_stay: bool
    """Whether decoders can be left on disk and read row by row, as large ones are."""

    @property
    def least(self) -> int | None:
        """Total with the decoders left on disk, if they can be."""
        if self.model is None or self.encoders is None or self.decoders is None:
            return None
        return self.model + self.encoders + (0 if self.decoders_stay else self.decoders)

    @property
    def whole(self) -> int | None:
        """Total with everything in memory."""
        if self.model is None or self.encoders is None or self.decoders is None:
            return None
        return self.model + self.encoders + self.decoders


def memory(model: ListedModel, transcoders: ListedSet, dtype: str) -> Needs:
    """Return the memory of the weights in ``dtype`` (a key of `DTYPE_BYTES`), without any prompt.

    >>> entry = listed("gemma-2-2b", "clt-426k")
    >>> memory(*entry, "bfloat16").model
    5228683776
    """
    return _needs(model, transcoders, DTYPE_BYTES[dtype], DTYPE_BYTES[dtype])


def disk(model: ListedModel, transcoders: ListedSet) -> Needs:
    """Return the approximate size of the download; models usually have two bytes a parameter."""
    return _needs(model, transcoders, 2, transcoders.stored)


def _needs(model: ListedModel, transcoders: ListedSet, model_item: int, set_item: int) -> Needs:
    weights = None if model.parameters is None else model.parameters * model_item
    if model.layers is None or model.d_model is None or transcoders.features is None:
        return Needs(weights, None, None, transcoders.by_rows)
    matrix = transcoders.features * model.d_model * set_item
    outputs = model.layers * (model.layers + 1) // 2 if transcoders.cross_layer else model.layers
    return Needs(weights, matrix * model.layers, matrix * outputs, transcoders.by_rows)


def registry(own: bool = True) -> tuple[ListedModel, ...]:
    """Return the user's models, then the published ones; without ``own``, only the published ones.

    Raises :class:`RegistryError` naming the file, entry and field that is wrong in the user's list.

    >>> [model.name for model in registry(own=False)][:2]
    ['gemma-2-2b', 'llama-3.2-1b']
    """
    own_file = paths.user_registry()
    user_models: tuple[ListedModel, ...] = ()
    if own:
        try:
            status = own_file.stat()
        except (FileNotFoundError, NotADirectoryError):
            pass  # no list of their own
        except OSError as error:
            raise RegistryError(_unreadable(own_file, error.strerror or error)) from error
        else:
            user_models = _read(own_file, True, status.st_mtime_ns, status.st_size)
    names = {model.name for model in user_models}
    return (*user_models, *(m for m in _read(_PUBLISHED, False) if m.name not in names))


def listed(name: str, transcoders: str | None = None) -> tuple[ListedModel, ListedSet] | None:
    """Return the entries of a model and a transcoder set, each given by name or repository.

    Without ``transcoders``, the model's first set; None where either is not listed. A set may also
    have one of circuit-tracer's `SHORT_NAMES`.

    >>> model, transcoder_set = listed("gemma-2-2b")
    >>> model.reference, transcoder_set.reference
    ('google/gemma-2-2b', 'mntss/gemma-scope-transcoders')
    """
    if transcoders is not None:
        transcoders = SHORT_NAMES.get(transcoders, transcoders)
    for model in registry():
        if name in (model.name, model.reference):
            for entry in model.sets:
                if transcoders in (None, entry.name, entry.reference):
                    return model, entry
    return None


def add_own(model: ListedModel) -> None:
    """Add a model to the user's list; it replaces an entry of the same name.

    Raises :class:`RegistryError` when the list cannot be read or written.
    """
    path = paths.user_registry()
    entries = [m for m in _own() if m.name != model.name]
    _write(path, [*entries, model])


def remove_own(name: str) -> None:
    """Remove a model from the user's list; raises :class:`RegistryError`."""
    _write(paths.user_registry(), [m for m in _own() if m.name != name])


def _own() -> list[ListedModel]:
    return [model for model in registry() if model.own]


def _write(path: Path, models: list[ListedModel]) -> None:
    content = {"models": [_stored(model) for model in models]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, yaml.safe_dump(content, sort_keys=False))
    except OSError as error:
        raise RegistryError(
            f"the list of models {path} cannot be written ({error.strerror or error}): make it "
            f"writable, or set {paths.MODELS_VARIABLE} to another file"
        ) from error


def _stored(model: ListedModel) -> dict[str, Any]:
    """Return the entry as it is written to the list."""
    sets = [
        _SetEntry(
            name=entry.name,
            repo=entry.reference,
            kind=KINDS[entry.cross_layer],
            features=entry.features,
            stored=entry.stored,
            by_rows=entry.by_rows,
            examples=entry.examples,
            neuronpedia="/".join(entry.neuronpedia) if entry.neuronpedia else None,
            chat=entry.chat,
        )
        for entry in model.sets
    ]
    return _ModelEntry(
        name=model.name,
        repo=model.reference,
        parameters=model.parameters,
        layers=model.layers,
        d_model=model.d_model,
        gated=model.gated,
        licence=model.licence,
        sets=sets,
    ).model_dump(exclude_none=True)


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(gt=0, lt=2**53)]


def _two_names(text: str) -> str:
    if not all(text.partition("/")):
        raise ValueError("model/source set, such as gemma-2-2b/gemmascope-transcoder-16k")
    return text


class _SetEntry(Fields):
    """A transcoder set in a list."""

    name: Text
    repo: Text
    kind: Literal["per-layer", "cross-layer"] = "per-layer"
    features: Count | None = None
    stored: Count = 4
    by_rows: bool = True
    examples: bool | None = None
    neuronpedia: Annotated[str, AfterValidator(_two_names)] | None = None
    chat: bool = False

    def listed(self) -> ListedSet:
        model, _, source_set = (self.neuronpedia or "").partition("/")
        return ListedSet(
            name=self.name,
            reference=self.repo,
            cross_layer=self.kind == "cross-layer",
            features=self.features,
            stored=self.stored,
            by_rows=self.by_rows,
            examples=self.examples,
            neuronpedia=(model, source_set) if self.neuronpedia else None,
            chat=self.chat,
        )


class _ModelEntry(Fields):
    """A model in a list."""

    name: Text
    repo: Text
    parameters: Count | None = None
    layers: Count | None = None
    d_model: Count | None = None
    gated: bool = False
    licence: str = ""
    sets: list[_SetEntry] = Field(default_factory=list)

    def listed(self, own: bool) -> ListedModel:
        return ListedModel(
            name=self.name,
            reference=self.repo,
            parameters=self.parameters,
            layers=self.layers,
            d_model=self.d_model,
            gated=self.gated,
            licence=self.licence,
            sets=tuple(entry.listed() for entry in self.sets),
            own=own,
        )


class _Shape(Fields):
    parameters: Count
    layers: Count
    d_model: Count


class _Family(Fields):
    """Models that differ in size and tuning only: ``{size}`` and ``{tuning}`` are filled in."""

    name: Text
    repo: Text
    gated: bool
    licence: str
    tunings: list[Text]
    chat_tunings: list[Text]
    """The tunings whose sets were trained on chats only."""
    sizes: dict[Text, _Shape]
    sets: list[_SetEntry]

    def members(self) -> Iterator[_ModelEntry]:
        """Yield one entry for every size and tuning."""
        for size, shape in self.sizes.items():
            for tuning in self.tunings:
                names = {"size": size, "tuning": tuning}
                yield _ModelEntry(
                    name=self.name.format(**names),
                    repo=self.repo.format(**names),
                    gated=self.gated,
                    licence=self.licence,
                    parameters=shape.parameters,
                    layers=shape.layers,
                    d_model=shape.d_model,
                    sets=[
                        entry.model_copy(
                            update={
                                "repo": entry.repo.format(**names),
                                "chat": tuning in self.chat_tunings,
                            }
                        )
                        for entry in self.sets
                    ],
                )


class _UserList(Fields):
    models: list[_ModelEntry] | None = None

    def entries(self) -> list[_ModelEntry]:
        return self.models or []


class _PublishedList(_UserList):
    families: list[_Family]

    def entries(self) -> list[_ModelEntry]:
        return [*super().entries(), *(m for family in self.families for m in family.members())]


@lru_cache(maxsize=8)
def _read(path: Path, own: bool, modified: int = 0, size: int = 0) -> tuple[ListedModel, ...]:
    """Return the models of a list.

    ``modified`` and ``size`` are arguments so that a file that changed is read again.
    """
    try:
        content = read_yaml(path)
    except OSError as error:
        raise RegistryError(_unreadable(path, error.strerror or error)) from error
    except ValueError as error:
        raise RegistryError(_unreadable(path, error)) from error
    if content is None:
        return ()
    try:
        entries = (_UserList if own else _PublishedList).model_validate(content).entries()
    except ValidationError as error:
        raise RegistryError(f"{path}: {problem(error, content)}") from error
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise RegistryError(f"{path}: two models are called {shortened(name)}: rename one")
    return tuple(entry.listed(own) for entry in entries)


def _unreadable(path: Path, why: object) -> str:
    return (
        f"the list of models {path} cannot be read ({why}): correct it, or set "
        f"{paths.MODELS_VARIABLE} to another file"
    )
