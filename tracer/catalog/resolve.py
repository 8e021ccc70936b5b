"""Find a model and its transcoders on disk, and fingerprint both. No torch here.

:func:`resolve` is cheap and never uses the network: the cache and the pages call it before anything
is loaded. :func:`obtain` downloads what is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

from tracer import hub, paths
from tracer.catalog import downloads
from tracer.catalog.embedded import ATLAS, EMBEDDED_SETS, embedded, installed
from tracer.catalog.registry import listed, registry
from tracer.errors import HubReferenceError, ModelError, NotDownloadedError, TranscoderError
from tracer.transcoders.config import CONFIG, local_files
from tracer.transcoders.other_tools import SETTINGS, is_set, read_set_config
from tracer.types import Progress

_HASHED_UP_TO: Final = 64 * 2**20
"""Bytes. Larger files are fingerprinted by name, size and modification time: hashing is slow."""


@dataclass(frozen=True)
class ModelSource:
    """A model and a transcoder set on this disk, not opened yet."""

    name: str
    transcoders: str
    """Name of the set to show: as it was given, or else the first of the model."""
    model_folder: Path
    transcoder_folder: Path
    fingerprint: str
    """Hex digest of both; results computed under another one do not apply."""
    transcoder_files: tuple[Path, ...] | None = None
    """Local copies of the files that the set's config lists; None if it lists none."""
    revisions: Mapping[str, str] = field(default_factory=dict)
    """Repository on the hub -> its commit."""
    set_repository: hub.Reference | None = None
    """The set on the hub, pinned to its commit; None for a folder."""
    neuronpedia: tuple[str, str] | None = None
    """Its model and source set on Neuronpedia."""

    @property
    def index_folder(self) -> Path:
        """The folder of the set's feature index, whether it exists or not."""
        if self.set_repository is None:
            return self.transcoder_folder / "features"
        return paths.indexes() / self.fingerprint[:24] / "features"


@dataclass(frozen=True)
class _Request:
    """The model and the set that the user named, with registry names replaced by references."""

    model: str
    transcoders: str
    neuronpedia: tuple[str, str] | None


def resolve(model: str = ATLAS, transcoders: str | None = None) -> ModelSource:
    """Find a model and a transcoder set on this disk.

    Each is a name in the registry, ``org/name[/sub][@revision]`` on the hub if it was downloaded,
    or a folder. Raises :class:`ModelError` or :class:`TranscoderError` when there is nothing to
    open, and :class:`NotDownloadedError` when it is only on the hub.

    >>> source = resolve("atlas", "cross-layer")
    >>> source.name, source.transcoders, source.model_folder.name
    ('atlas', 'cross-layer', 'model')
    """
    request = _request(model, transcoders)
    model_folder, revisions = _model(request.model)
    set_folder, set_files, place, more = _transcoders(request)
    digest = hashlib.sha256()
    for name, folder, files, commits in (
        (request.model, model_folder, (), revisions),
        (request.transcoders, set_folder, set_files or (), more),
    ):
        try:
            _add(digest, name, folder, files, commits)
        except OSError as error:
            raise ModelError(
                f"{error.filename or folder} cannot be read ({error.strerror or error}): make it "
                "readable"
            ) from error
    return ModelSource(
        name=model,
        transcoders=transcoders or (EMBEDDED_SETS[0] if embedded(model) else request.transcoders),
        model_folder=model_folder,
        transcoder_folder=set_folder,
        fingerprint=digest.hexdigest(),
        transcoder_files=set_files,
        revisions={**revisions, **more},
        set_repository=place,
        neuronpedia=request.neuronpedia,
    )


def obtain(
    model: str = ATLAS,
    transcoders: str | None = None,
    progress: Progress | None = None,
    update: bool = False,
) -> ModelSource:
    """Download what is missing, then :func:`resolve`; ``progress`` counts bytes.

    ``update`` moves to the current commits on the hub. Raises as :func:`resolve`, and
    :class:`tracer.errors.HubError`.
    """
    request = _request(model, transcoders)
    try:
        source = resolve(model, transcoders)
        if not update and not _to_fetch(request):
            return source
    except NotDownloadedError:
        if not _on_hub(request.transcoders, CONFIG):
            _transcoders(request)  # fail before the model is downloaded
    downloads.run(missing(model, transcoders, update), progress)
    return resolve(model, transcoders)


def obtain_model(model: str = ATLAS, progress: Progress | None = None) -> ModelSource:
    """Find a model without transcoders, and download it if it is not on this disk.

    In the result, ``transcoders`` is empty, ``transcoder_folder`` is the folder of the model, and
    the fingerprint covers the model alone.

    Raises :class:`ModelError` if the model does not exist, and :class:`tracer.errors.HubError` if
    it cannot be downloaded.
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
    """Ask the hub what must be downloaded to open a model with a set, and how large it is."""
    request = _request(model, transcoders)
    names = _to_fetch(request, update)
    plans = []
    if request.model in names:
        plans.append(downloads.plan_model(request.model, update))
    if request.transcoders in names:
        plans.append(downloads.plan_set(request.transcoders, update=update))
    return plans


def _to_fetch(request: _Request, update: bool = False) -> list[str]:
    """Return the model, the set, both or neither: those to ask the hub for."""
    both = ((request.model, "config.json"), (request.transcoders, CONFIG))
    on_hub = [name for name, marker in both if _on_hub(name, marker)]
    return [name for name in on_hub if update or downloads.to_fetch(name)]


def _request(model: str, transcoders: str | None) -> _Request:
    if embedded(model) is not None:
        return _Request(model, transcoders or EMBEDDED_SETS[0], None)
    entry = listed(model, transcoders)
    if entry is not None:
        return _Request(entry[0].reference, entry[1].reference, entry[1].neuronpedia)
    known = next((m for m in registry() if model in (m.name, m.reference)), None)
    if transcoders is None:
        raise TranscoderError(
            f"no transcoders named for {model!r}: give the folder of a transcoder set, or its name "
            "on the hub (org/name)"
        )
    return _Request(known.reference if known else model, transcoders, None)


def _on_hub(name: str, marker: str) -> bool:
    """Return whether a name means a repository: it is a valid reference and not a folder."""
    if embedded(name) is not None or name in EMBEDDED_SETS or _is_path(name):
        return False
    folder = paths.expand_user(name)
    if is_set(folder) if marker == CONFIG else paths.is_file(folder / marker):
        return False
    try:
        hub.Reference.parse(name)
    except HubReferenceError:
        return False
    return True


def _is_path(name: str) -> bool:
    return name.startswith(("/", "~", ".")) or Path(name).is_absolute()


def _model(name: str) -> tuple[Path, dict[str, str]]:
    """Return the model's folder, and its repository and commit if it is from the hub."""
    if _on_hub(name, "config.json"):
        download = downloads.known(name)
        if download is None:
            raise NotDownloadedError(_not_downloaded(name))
        return download.folder, {hub.Reference.parse(name).repo: download.commit}
    known = embedded(name)
    if known is not None and not known.is_installed:
        raise ModelError(
            f"{name} is not part of this installation: {known.weights} has no weights; build them "
            f"with python -m tracer.{name} build, or install a complete copy"
        )
    folder = known.weights / "model" if known is not None else paths.expand_user(name)
    if not paths.is_file(folder / "config.json"):
        downloads.refuse_adapter(name, paths.is_file(folder / downloads.ADAPTER))
        names = ", ".join(model.name for model in registry()[:4])
        own = " or ".join(repr(model.name) for model in installed())
        raise ModelError(
            f"no model at {name!r}: expected {own}, a name from `python -m tracer models` "
            f"({names}, …), org/name on the hub, or a folder with a Hugging Face config.json"
        )
    return folder, {}


def _transcoders(
    request: _Request,
) -> tuple[Path, tuple[Path, ...] | None, hub.Reference | None, dict[str, str]]:
    """Return the set's folder and listed files; its reference and commits if from the hub."""
    name = request.transcoders
    if _on_hub(name, CONFIG):
        download = downloads.known(name)
        if download is None:
            raise NotDownloadedError(_not_downloaded(name))
        place = hub.Reference.parse(name)
        pinned = hub.Reference(place.repo, place.folder, download.commit)
        files = download.files if download.listed else None
        return download.folder, files, pinned, {place.repo: download.commit, **download.others}
    known = embedded(request.model)
    is_embedded = known is not None and name in EMBEDDED_SETS
    folder = known.weights / name if known and is_embedded else paths.expand_user(name)
    if not is_set(folder):
        choice = f" or one of {', '.join(EMBEDDED_SETS)}" if known is not None else ""
        raise TranscoderError(
            f"no transcoders at {name!r}: expected org/name on the hub, or a folder with a "
            f"config.yaml{choice}"
        )
    config = read_set_config(folder) if not is_embedded else None
    listed_files = local_files(folder, config) if config and config.transcoders else None
    return folder, listed_files, None, {}


def _not_downloaded(name: str) -> str:
    return (
        f"{name} is not downloaded, and is not a folder here: download it on the Models page, or "
        "with python -m tracer models --download"
    )


def _add(
    digest: hashlib._Hash,
    name: str,
    folder: Path,
    files: Collection[Path],
    commits: Mapping[str, str],
) -> None:
    """Add a model or a set to the fingerprint: by commits if it has them, else by its files."""
    if commits:
        place = hub.Reference.parse(name)
        digest.update(repr((place.repo, place.folder, sorted(commits.items()))).encode())
        return
    inside = sorted(path for path in folder.iterdir() if path.is_file())
    settings = (path.with_name(SETTINGS) for path in files)  # of sparsify and SAELens
    for path in [*inside, *(path for path in (*files, *settings) if path.is_file())]:
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0".encode())
        if status.st_size <= _HASHED_UP_TO:
            digest.update(_content_digest(path, status.st_size, status.st_mtime_ns))
        else:
            digest.update(str(status.st_mtime_ns).encode())


@lru_cache(maxsize=4096)
def _content_digest(path: Path, size: int, modified_ns: int) -> bytes:
    """Return the SHA-256 of a file; size and time are arguments so that a change is noticed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
