"""Download models and transcoder sets from the hub, and remember what was downloaded.

Every finished download is recorded in a note with its commit. The same commit is opened from then
on, without the network, until the user asks for an update: results stay comparable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import TypeAdapter

from tracer import hub, paths
from tracer.errors import CacheFolderError, ModelError, TranscoderError
from tracer.files import atomic_write
from tracer.transcoders.config import CONFIG, HUB_ENTRY, SetConfig, read_config
from tracer.transcoders.other_tools import config_of_other_tool, is_set, settings_and_tensors
from tracer.types import Progress

_TEXTS: Final = (".json", ".txt", ".model", ".jinja")
_LARGEST_TEXT: Final = 2**27  # bytes
ADAPTER: Final = "adapter_config.json"
"""The file that a LoRA or another adapter has, in place of a model's config.json."""


@dataclass(frozen=True)
class Part:
    """Files of one repository at one commit."""

    repo: str
    commit: str
    paths: tuple[str, ...]

    @property
    def root(self) -> Path:
        """The snapshot folder they are in. All of them are cached, so the network is not used."""
        return hub.fetch(hub.Reference(self.repo), self.paths, commit=self.commit)


@dataclass(frozen=True)
class Download:
    """A model or a transcoder set whose files are all on this disk."""

    reference: str
    commit: str
    folder: Path
    """The folder of its configuration file."""
    files: tuple[Path, ...]
    """The tensor files; in the order of the layers if a set's config lists them."""
    listed: bool
    """Whether ``files`` is the list in the config."""
    certain: bool = True
    """False when the hub could not be reached to list the files: some may be missing."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Other repositories that its config refers to -> their commits."""


_DOWNLOAD: Final = TypeAdapter(Download)


def known(reference: str) -> Download | None:
    """Return a finished download, or None if there is none or one of its files is gone."""
    try:
        download = _DOWNLOAD.validate_json(_note(reference).read_bytes())
    except (OSError, ValueError):
        return None  # never downloaded, or the note is damaged: the files are looked up again
    described = paths.is_file(download.folder / "config.json") or is_set(download.folder)
    return download if described and all(map(paths.is_file, download.files)) else None


def to_fetch(reference: str) -> bool:
    """Return whether the hub has to be asked: it is not downloaded, or may be incomplete."""
    download = known(reference)
    return download is None or (not download.certain and hub.network_allowed())


def _note(reference: str) -> Path:
    name = hashlib.sha256(str(hub.Reference.parse(reference)).encode()).hexdigest()[:24]
    return paths.downloads() / f"{name}.json"


def _remember(download: Download) -> None:
    path = _note(download.reference)
    with _writable(path.parent):
        atomic_write(path, _DOWNLOAD.dump_json(download, indent=1))


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CacheFolderError(
            f"the folder of download notes {folder} cannot be written "
            f"({error.strerror or error}): make it writable, or set {paths.HOME_VARIABLE} to "
            "another folder"
        ) from error


@dataclass(frozen=True)
class Plan:
    """The files to download, known before anything large is fetched."""

    reference: str
    place: hub.Reference
    main: Part
    listed: tuple[tuple[Part, str], ...]
    """The files that a set's config lists, each with its path, in the order of the layers."""
    sizes: Mapping[tuple[str, str], int]
    """(repository, path) -> bytes."""
    certain: bool = True
    """Whether the hub listed the files; False when the list is from the cache."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """The files by repository and commit, each pair once."""
        parts = {(part.repo, part.commit): part for part, _ in self.listed}
        return (self.main, *(p for p in parts.values() if p != self.main))

    @property
    def n_bytes(self) -> int:
        """Size of all files together."""
        return sum(self.sizes.values())


def plan_model(reference: str, update: bool = False) -> Plan:
    """Return the files of a model: configuration, tokenizer and safetensors weights.

    An ``update`` never falls back on the cache. Raises :class:`tracer.errors.HubError`, and
    :class:`ModelError` for a repository without a model in safetensors.
    """
    place = hub.Reference.parse(reference)
    listing = hub.look_up(place, update)
    files = _directly_in(listing, place.folder)
    weights = [f for f in files if f.path.endswith(".safetensors") and _name(f).startswith("model")]
    texts = [f for f in files if f.path.endswith(_TEXTS) and f.size < _LARGEST_TEXT]
    is_adapter = any(_name(file) == ADAPTER for file in files)
    if not any(_name(file) == "config.json" for file in texts):
        refuse_adapter(reference, is_adapter)
        raise ModelError(
            f"{reference} is not a model: it has no config.json{_searched(listing)}; give a "
            "repository with a Hugging Face model"
        )
    if not weights:
        refuse_adapter(reference, is_adapter)
        raise ModelError(
            f"{reference} has no model.safetensors{_searched(listing)}: other weight formats can "
            "run code when they are read, so they are not opened; look for a copy with safetensors"
        )
    chosen = [*texts, *weights]
    part = Part(place.repo, listing.commit, tuple(file.path for file in chosen))
    sizes = {(place.repo, f.path): f.size for f in chosen}
    return Plan(reference, place, part, (), sizes, listing.complete)


def refuse_adapter(name: str, is_adapter: bool) -> None:
    """Raise :class:`ModelError` for an adapter, which changes a model and is not one."""
    if is_adapter:
        raise ModelError(
            f"{name} is an adapter (LoRA), not a model: merge the adapter first "
            "(merge_and_unload in PEFT), save the model, and open that folder"
        )


def plan_set(reference: str, progress: Progress | None = None, update: bool = False) -> Plan:
    """Return the files of a transcoder set, including those its config lists in other repositories.

    The config itself, which is small, is downloaded to find out. Raises
    :class:`tracer.errors.HubError`, and :class:`TranscoderError` for anything but a set.
    """
    place = hub.Reference.parse(reference)
    listing = hub.look_up(place, update)
    config_path = str(PurePosixPath(place.folder) / CONFIG)
    size = next((file.size for file in listing.files if file.path == config_path), None)
    if size is None:
        plan = _plan_of_other_tool(reference, place, listing, progress)
        if plan is not None:
            return plan
        raise TranscoderError(
            f"{reference} is not a transcoder set: it has no {CONFIG}{_searched(listing)}"
            f"{_sets_in(listing)}"
        )
    root = hub.fetch(place, [config_path], progress, listing.commit, {config_path: size})
    config = read_config(root / place.folder)
    if config.transcoders:
        return _plan_listed(reference, place, listing, config_path, config, update)
    chosen = [f for f in _directly_in(listing, place.folder) if f.path.endswith(".safetensors")]
    if not chosen:
        raise TranscoderError(
            f"{reference} has no safetensors files next to its {CONFIG}{_searched(listing)}: the "
            "set is incomplete; report it to its publisher"
        )
    paths = (config_path, *(file.path for file in chosen))
    part = Part(place.repo, listing.commit, paths)
    sizes = {(place.repo, f.path): f.size for f in chosen}
    return Plan(reference, place, part, (), sizes, listing.complete)


def _plan_of_other_tool(
    reference: str, place: hub.Reference, listing: hub.Listing, progress: Progress | None
) -> Plan | None:
    """Return the plan of a set of sparsify or SAELens, which has settings for each layer.

    The settings, which are small, are downloaded first, so that a set of another kind is refused
    before its tensors are. None for any other repository.
    """
    sizes = {file.path: file.size for file in listing.files}
    inside = [path for path in sizes if PurePosixPath(path).is_relative_to(place.folder)]
    names = {PurePosixPath(path).relative_to(place.folder).as_posix(): path for path in inside}
    both = {names[s]: names[t] for s, t in settings_and_tensors(names).items()}
    if not both:
        return None
    settings = {path: sizes[path] for path in both}
    root = hub.fetch(place, list(settings), progress, listing.commit, settings)
    folder = root / place.folder
    config = config_of_other_tool(folder, {root / path for path in both.values()})
    if config is None:
        return None
    files = [(folder / name).relative_to(root).as_posix() for name in config.transcoders]
    part = Part(place.repo, listing.commit, (*settings, *files))
    return Plan(
        reference,
        place,
        part,
        tuple((part, path) for path in files),
        {(place.repo, path): sizes[path] for path in part.paths},
        listing.complete,
    )


def _searched(listing: hub.Listing) -> str:
    """Return where a file was searched, as the end of a clause: nothing if it was the hub."""
    return "" if listing.complete else " in the cache, and the hub cannot be reached now"


def _sets_in(listing: hub.Listing) -> str:
    """Return the end of a sentence that names sets in other folders of the repository."""
    paths = [PurePosixPath(file.path) for file in listing.files]
    sets = [f"{listing.repo}/{path.parent}" for path in paths if path.name == CONFIG]
    if not sets:
        return "; give a repository, or a folder of one, with a transcoder set"
    return f"; use {', '.join(sets[:5])}{', …' if sets[5:] else ''} instead"


def _plan_listed(
    reference: str,
    place: hub.Reference,
    listing: hub.Listing,
    config_path: str,
    config: SetConfig,
    update: bool,
) -> Plan:
    """Return the plan of a set whose config lists its files, also in other repositories."""
    listings = {(place.repo, place.revision): listing}
    files: list[tuple[hub.Listing, str]] = []
    for entry in config.transcoders:
        if entry.startswith(HUB_ENTRY):
            target = hub.Reference.parse(entry)
            key = (target.repo, target.revision)
            if key not in listings:
                listings[key] = hub.look_up(hub.Reference(target.repo, "", target.revision), update)
            files.append((listings[key], target.folder))
        else:
            files.append((listing, str(PurePosixPath(place.folder) / entry)))
    sizes: dict[tuple[str, str], int] = {}
    for owner, path in files:
        size = next((file.size for file in owner.files if file.path == path), None)
        if size is None:
            raise TranscoderError(
                f"{reference} lists {path}, which is not in {owner.repo} at commit "
                f"{owner.commit[:8]}: report it to its publisher"
                if owner.complete
                else f"{reference} lists {path} of {owner.repo}, which is not"
                f"{_searched(owner)}: download the set again when it can"
            )
        sizes[owner.repo, path] = size
    paths: dict[tuple[str, str], list[str]] = {(place.repo, listing.commit): [config_path]}
    for owner, path in files:
        paths.setdefault((owner.repo, owner.commit), []).append(path)
    parts = {key: Part(*key, tuple(dict.fromkeys(chosen))) for key, chosen in paths.items()}
    listed = tuple((parts[owner.repo, owner.commit], path) for owner, path in files)
    certain = all(owner.complete for owner in listings.values())
    return Plan(reference, place, parts[place.repo, listing.commit], listed, sizes, certain)


def run(plans: Sequence[Plan], progress: Progress | None = None) -> list[Download]:
    """Download the files of the plans; ``progress`` counts the bytes of all of them together.

    Each download is recorded when it is complete. Raises :class:`tracer.errors.HubError`.
    """
    total, before, finished = sum(plan.n_bytes for plan in plans), 0, []
    with _writable(paths.downloads()):
        pass  # fail before anything large is downloaded
    for plan in plans:
        for part in plan.parts:
            sizes = {
                p: plan.sizes[part.repo, p] for p in part.paths if (part.repo, p) in plan.sizes
            }
            size = sum(sizes.values())
            reference = hub.Reference(part.repo, "", part.commit)
            counted = _counted(progress, before, size, total)
            hub.fetch(reference, part.paths, counted, part.commit, sizes)
            before += size
        finished.append(_finish(plan))
    return finished


def _counted(
    progress: Progress | None, before: int, size: int, total: int
) -> Callable[[int, int, str], None] | None:
    """Return a callback that reports one part as a share of all; cached files count as done."""
    if progress is None:
        return None

    def report(done: int, missing: int, what: str) -> None:
        progress(before + max(size - missing, 0) + done, total, what)

    return report


def _finish(plan: Plan) -> Download:
    root = plan.main.root
    if plan.listed:
        files = [part.root / path for part, path in plan.listed]
    else:
        files = [root / path for path in plan.main.paths if not path.endswith(CONFIG)]
    download = Download(
        reference=plan.reference,
        commit=plan.main.commit,
        folder=root / plan.place.folder,
        files=tuple(files),
        listed=bool(plan.listed),
        certain=plan.certain,
        others={p.repo: p.commit for p in plan.parts if p.repo != plan.place.repo},
    )
    _remember(download)
    return download


def _directly_in(listing: hub.Listing, folder: str) -> list[hub.HubFile]:
    parent = PurePosixPath(folder)
    return [file for file in listing.files if PurePosixPath(file.path).parent == parent]


def _name(file: hub.HubFile) -> str:
    return PurePosixPath(file.path).name
