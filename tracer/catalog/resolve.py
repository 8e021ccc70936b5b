"""Where a model and its transcoders stand on disk, and a fingerprint of both. No torch here.

Knowing *what* would be opened is cheap and asks no network; the cache and the pages do so before
anything is loaded. :func:`obtain` is the one that downloads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

from tracer import hub, paths
from tracer.catalog import downloads
from tracer.catalog.registry import listed, registry
from tracer.errors import HubReferenceError, ModelError, NotDownloadedError, TranscoderError
from tracer.transcoders.config import CONFIG, local_files, read_config
from tracer.types import Progress

ATLAS: Final = "atlas"
ATLAS_TRANSCODERS: Final = ("per-layer", "cross-layer")
_HASHED_WHOLE: Final = 64 * 2**20
"""Larger files count by name, size and modification time: hashing gigabytes would take seconds."""


@dataclass(frozen=True)
class ModelSource:
    """A model and a transcoder set, found on this disk but not opened."""

    name: str
    transcoders: str
    """Name to show for the set: atlas's ``per-layer`` or ``cross-layer``, else as it was given."""
    model_folder: Path
    transcoder_folder: Path
    fingerprint: str
    """Hex digest over both: whatever was computed under another one does not apply."""
    transcoder_files: tuple[Path, ...] | None = None
    """Local copies of the files that the set's config lists; None where it lists none."""
    revisions: Mapping[str, str] = field(default_factory=dict)
    """Repository on the hub -> the commit that is opened."""
    set_repository: hub.Reference | None = None
    """Where on the hub the set is, pinned to its commit."""
    neuronpedia: tuple[str, str] | None = None
    """Model and source set that explain the features there."""

    @property
    def index_folder(self) -> Path:
        """Where an index of what the features fire on is, or would be built."""
        if self.set_repository is None:
            return self.transcoder_folder / "features"
        return paths.indexes() / self.fingerprint[:24] / "features"


@dataclass(frozen=True)
class _Wanted:
    """What a person named, with the registry's names replaced by what they stand for."""

    model: str
    transcoders: str
    neuronpedia: tuple[str, str] | None


def resolve(model: str = ATLAS, transcoders: str | None = None) -> ModelSource:
    """Find a model and a set: by name in the registry, as ``org/name[/sub][@revision]`` on the hub
    if they were downloaded, or as folders.

    Raises :class:`ModelError` or :class:`TranscoderError` when there is nothing to open, and
    :class:`NotDownloadedError` when it is on the hub only.
    """
    wanted = _wanted(model, transcoders)
    model_folder, revisions = _model(wanted.model)
    set_folder, set_files, place, more = _transcoders(wanted)
    digest = hashlib.sha256()
    _add(digest, wanted.model, model_folder, (), revisions)
    _add(digest, wanted.transcoders, set_folder, set_files or (), more)
    return ModelSource(
        name=model,
        transcoders=transcoders or (ATLAS_TRANSCODERS[0] if model == ATLAS else wanted.transcoders),
        model_folder=model_folder,
        transcoder_folder=set_folder,
        fingerprint=digest.hexdigest(),
        transcoder_files=set_files,
        revisions={**revisions, **more},
        set_repository=place,
        neuronpedia=wanted.neuronpedia,
    )


def obtain(
    model: str = ATLAS,
    transcoders: str | None = None,
    progress: Progress | None = None,
    update: bool = False,
) -> ModelSource:
    """As :func:`resolve`, after downloading what is not there; ``progress`` counts bytes.

    ``update`` asks the hub which commit the names stand for now. Raises as :func:`resolve`, and
    :class:`tracer.errors.HubError`.
    """
    wanted = _wanted(model, transcoders)
    try:
        found = resolve(model, transcoders)  # a folder that is not there is said before a download
        if not update and not _to_fetch(wanted):
            return found
    except NotDownloadedError:
        if not _on_hub(wanted.transcoders, CONFIG):
            _transcoders(wanted)
    downloads.run(missing(model, transcoders, update), progress)
    return resolve(model, transcoders)


def obtain_model(model: str = ATLAS, progress: Progress | None = None) -> ModelSource:
    """Find a model without transcoders, and download it if it is not on this disk.

    Of the source, ``transcoders`` is empty and ``transcoder_folder`` is the model's own folder; the
    fingerprint covers the model alone. Raises :class:`ModelError` when there is no such model, and
    :class:`tracer.errors.HubError` when it cannot be downloaded.
    """
    entry = next((m for m in registry() if model in (m.name, m.reference)), None)
    reference = entry.reference if entry else model
    if _on_hub(reference, "config.json") and downloads.to_fetch(reference):
        downloads.run([downloads.plan_model(reference)], progress)
    folder, revisions = _model(reference)
    digest = hashlib.sha256()
    _add(digest, reference, folder, (), revisions)
    return ModelSource(
        name=model,
        transcoders="",
        model_folder=folder,
        transcoder_folder=folder,
        fingerprint=digest.hexdigest(),
        revisions=revisions,
    )


def missing(
    model: str, transcoders: str | None = None, update: bool = False
) -> list[downloads.Plan]:
    """What would have to be downloaded to open a model with a set, with its size; asks the hub."""
    wanted = _wanted(model, transcoders)
    names = _to_fetch(wanted, update)
    plans = []
    if wanted.model in names:
        plans.append(downloads.plan_model(wanted.model, update))
    if wanted.transcoders in names:
        plans.append(downloads.plan_set(wanted.transcoders, update=update))
    return plans


def _to_fetch(wanted: _Wanted, update: bool = False) -> list[str]:
    """Which of the two the hub has to be asked for."""
    both = ((wanted.model, "config.json"), (wanted.transcoders, CONFIG))
    on_hub = [name for name, marker in both if _on_hub(name, marker)]
    return [name for name in on_hub if update or downloads.to_fetch(name)]


def _wanted(model: str, transcoders: str | None) -> _Wanted:
    if model == ATLAS:
        return _Wanted(model, transcoders or ATLAS_TRANSCODERS[0], None)
    entry = listed(model, transcoders)
    if entry is not None:
        return _Wanted(entry[0].reference, entry[1].reference, entry[1].neuronpedia)
    known = next((m for m in registry() if model in (m.name, m.reference)), None)
    if transcoders is None:
        raise TranscoderError(
            f"no transcoders named for {model!r}: give the folder of a transcoder set, or its name "
            "on the hub (org/name)"
        )
    return _Wanted(known.reference if known else model, transcoders, None)


def _on_hub(name: str, marker: str) -> bool:
    """Whether a name means a repository: it is no folder, and looks like one."""
    if name == ATLAS or name in ATLAS_TRANSCODERS or _is_path(name):
        return False
    if paths.is_file(paths.expand_user(name) / marker):
        return False
    try:
        hub.Reference.parse(name)
    except HubReferenceError:
        return False
    return True


def _is_path(name: str) -> bool:
    return name.startswith(("/", "~", ".")) or Path(name).is_absolute()


def _model(name: str) -> tuple[Path, dict[str, str]]:
    """Its folder, and the commit where it is from the hub."""
    if _on_hub(name, "config.json"):
        found = downloads.known(name)
        if found is None:
            raise NotDownloadedError(_not_downloaded(name))
        return found.folder, {hub.Reference.parse(name).repo: found.commit}
    folder = paths.ATLAS_WEIGHTS / "model" if name == ATLAS else paths.expand_user(name)
    if not paths.is_file(folder / "config.json"):
        names = ", ".join(model.name for model in registry()[:4])
        raise ModelError(
            f"no model at {name!r}: expected {ATLAS!r}, a name from `python -m tracer models` "
            f"({names}, …), org/name on the hub, or a folder that holds a Hugging Face config.json"
        )
    return folder, {}


def _transcoders(
    wanted: _Wanted,
) -> tuple[Path, tuple[Path, ...] | None, hub.Reference | None, dict[str, str]]:
    name = wanted.transcoders
    if _on_hub(name, CONFIG) and not (wanted.model == ATLAS and name in ATLAS_TRANSCODERS):
        found = downloads.known(name)
        if found is None:
            raise NotDownloadedError(_not_downloaded(name))
        place = hub.Reference.parse(name)
        pinned = hub.Reference(place.repo, place.folder, found.commit)
        files = found.files if found.listed else None
        return found.folder, files, pinned, {place.repo: found.commit, **found.others}
    is_atlas = wanted.model == ATLAS and name in ATLAS_TRANSCODERS
    folder = paths.ATLAS_WEIGHTS / name if is_atlas else paths.expand_user(name)
    if not paths.is_file(folder / CONFIG):
        choice = f" or one of {', '.join(ATLAS_TRANSCODERS)}" if wanted.model == ATLAS else ""
        raise TranscoderError(
            f"no transcoders at {name!r}: expected org/name on the hub, or a folder that holds a "
            f"config.yaml{choice}"
        )
    config = read_config(folder) if not is_atlas else None
    listed_files = local_files(folder, config) if config and config.transcoders else None
    return folder, listed_files, None, {}


def _not_downloaded(name: str) -> str:
    return (
        f"{name} is no folder here and was not downloaded from the hub yet: download it on the "
        "Models page, or with python -m tracer models --download"
    )


def _add(
    digest: hashlib._Hash,
    name: str,
    folder: Path,
    files: Iterable[Path],
    commits: Mapping[str, str],
) -> None:
    """Commits stand for what they hold; folders are looked into."""
    if commits:
        place = hub.Reference.parse(name)
        digest.update(repr((place.repo, place.folder, sorted(commits.items()))).encode())
        return
    inside = sorted(path for path in folder.iterdir() if path.is_file())
    for path in [*inside, *(path for path in files if path.is_file())]:
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0".encode())
        if status.st_size <= _HASHED_WHOLE:
            digest.update(_content_digest(path, status.st_size, status.st_mtime_ns))
        else:
            digest.update(str(status.st_mtime_ns).encode())


@lru_cache(maxsize=4096)
def _content_digest(path: Path, size: int, modified_ns: int) -> bytes:
    """SHA-256 of a file; size and time are arguments so that a changed file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
