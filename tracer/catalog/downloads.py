"""Models and transcoder sets from the hub: which files they need, and getting them.

What was downloaded, and at which commit, is noted in a file. From then on the same commit is
opened, without asking the network, until an update is asked for: results stay comparable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from tracer import hub, paths
from tracer.errors import CacheFolderError, ModelError, TranscoderError
from tracer.files import atomic_write
from tracer.transcoders.config import CONFIG, HUB_ENTRY, SetConfig, read_config
from tracer.types import Progress

_TEXTS: Final = (".json", ".txt", ".model", ".jinja")
_LARGEST_TEXT: Final = 2**27


@dataclass(frozen=True)
class Part:
    """Files of one repository at one commit."""

    repo: str
    commit: str
    paths: tuple[str, ...]

    @property
    def root(self) -> Path:
        """Where they are; asks the cache, not the network, as all of them are there."""
        return hub.fetch(hub.Reference(self.repo), self.paths, commit=self.commit)


@dataclass(frozen=True)
class Download:
    """A model or a set whose files are all on this disk."""

    reference: str
    commit: str
    folder: Path
    """Where its configuration stands."""
    files: tuple[Path, ...]
    """The tensors, in the order of the layers where a set's config lists them."""
    listed: bool
    """Whether ``files`` are what the config lists."""
    certain: bool = True
    """False where the hub could not be asked which files there are: some may be missing."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Commits of further repositories that its config refers to."""


def known(reference: str) -> Download | None:
    """A finished download, or None where a file of it is not there any more."""
    try:
        stored = json.loads(_note(reference).read_text(encoding="utf-8"))
        found = Download(
            reference=stored["reference"],
            commit=stored["commit"],
            folder=Path(stored["folder"]),
            files=tuple(Path(path) for path in stored["files"]),
            listed=stored["listed"],
            certain=stored.get("certain", True),
            others=dict(stored["others"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never downloaded, or a note that was cut short: it is fetched again
    described = any((found.folder / name).is_file() for name in (CONFIG, "config.json"))
    return found if described and all(path.is_file() for path in found.files) else None


def to_fetch(reference: str) -> bool:
    """Whether the hub has to be asked for it: it is not here, or nobody knows if it is whole."""
    found = known(reference)
    return found is None or (not found.certain and hub.network_allowed())


def _note(reference: str) -> Path:
    name = hashlib.sha256(str(hub.Reference.parse(reference)).encode()).hexdigest()[:24]
    return paths.downloads() / f"{name}.json"


def _remember(download: Download) -> None:
    path = _note(download.reference)
    stored = asdict(download) | {
        "folder": str(download.folder),
        "files": [str(file) for file in download.files],
        "others": dict(download.others),
    }
    with _writable(path.parent):
        atomic_write(path, json.dumps(stored, indent=1))


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CacheFolderError(
            f"what is downloaded is noted in {folder}, which cannot be written "
            f"({error.strerror or error}): make it writable, or set {paths.HOME_VARIABLE} to "
            "another folder"
        ) from error


@dataclass(frozen=True)
class Plan:
    """What has to be fetched, known before anything large is."""

    reference: str
    place: hub.Reference
    main: Part
    listed: tuple[tuple[Part, str], ...]
    """Files that a set's config lists, each with its path, in the order of the layers."""
    sizes: Mapping[tuple[str, str], int]
    certain: bool = True
    """Whether the hub itself said which files there are."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every repository once."""
        found = {(part.repo, part.commit): part for part, _ in self.listed}
        return (self.main, *(p for p in found.values() if p != self.main))

    @property
    def n_bytes(self) -> int:
        """All files together."""
        return sum(self.sizes.values())


def plan_model(reference: str, update: bool = False) -> Plan:
    """The files of a model: configuration, tokenizer and safetensors weights.

    An ``update`` is content with nothing but the hub's own word. Raises
    :class:`tracer.errors.HubError`, and :class:`ModelError` for a repository that holds no
    such model.
    """
    place = hub.Reference.parse(reference)
    listing = hub.look_up(place, update)
    here = _directly_in(listing, place.folder)
    weights = [f for f in here if f.path.endswith(".safetensors") and _name(f).startswith("model")]
    texts = [f for f in here if f.path.endswith(_TEXTS) and f.size < _LARGEST_TEXT]
    if not any(_name(file) == "config.json" for file in texts):
        raise ModelError(f"{reference} holds no model: there is no config.json in {_it(listing)}")
    if not weights:
        raise ModelError(
            f"{reference} has no weights as safetensors in {_it(listing)}: other files can run "
            "code when they are read, and are not; look for a copy with model.safetensors"
        )
    chosen = [*texts, *weights]
    part = Part(place.repo, listing.commit, tuple(file.path for file in chosen))
    sizes = {(place.repo, f.path): f.size for f in chosen}
    return Plan(reference, place, part, (), sizes, listing.complete)


def plan_set(reference: str, progress: Progress | None = None, update: bool = False) -> Plan:
    """The files of a transcoder set, those included that its ``config.yaml`` lists elsewhere.

    The config itself, which is small, is fetched to know. Raises
    :class:`tracer.errors.HubError`, and :class:`TranscoderError` for what is no set.
    """
    place = hub.Reference.parse(reference)
    listing = hub.look_up(place, update)
    config_path = str(PurePosixPath(place.folder) / CONFIG)
    size = next((file.size for file in listing.files if file.path == config_path), None)
    if size is None:
        raise TranscoderError(
            f"{reference} holds no transcoder set: there is no {CONFIG} in "
            f"{_it(listing)}{_sets_in(listing)}"
        )
    root = hub.fetch(place, [config_path], progress, listing.commit, {config_path: size})
    config = read_config(root / place.folder)
    if config.transcoders:
        return _plan_listed(reference, place, listing, config_path, config, update)
    chosen = [f for f in _directly_in(listing, place.folder) if f.path.endswith(".safetensors")]
    if not chosen:
        raise TranscoderError(
            f"{reference} has a {CONFIG} but no safetensors beside it in {_it(listing)}: the set "
            "is incomplete"
        )
    paths = (config_path, *(file.path for file in chosen))
    part = Part(place.repo, listing.commit, paths)
    sizes = {(place.repo, f.path): f.size for f in chosen}
    return Plan(reference, place, part, (), sizes, listing.complete)


def _it(listing: hub.Listing) -> str:
    return "it" if listing.complete else "what the cache has of it, and the hub cannot be asked now"


def _sets_in(listing: hub.Listing) -> str:
    """Where there are some in other folders of the repository."""
    paths = [PurePosixPath(file.path) for file in listing.files]
    found = [f"{listing.repo}/{path.parent}" for path in paths if path.name == CONFIG]
    if not found:
        return ""
    return f"; there is one in {', '.join(found[:5])}{', …' if found[5:] else ''}"


def _plan_listed(
    reference: str,
    place: hub.Reference,
    listing: hub.Listing,
    config_path: str,
    config: SetConfig,
    update: bool,
) -> Plan:
    """For a set whose tensors are listed, in this repository or in others."""
    listings = {(place.repo, place.revision): listing}
    wanted: list[tuple[hub.Listing, str]] = []
    for entry in config.transcoders:
        if entry.startswith(HUB_ENTRY):
            there = hub.Reference.parse(entry)
            key = (there.repo, there.revision)
            if key not in listings:
                listings[key] = hub.look_up(hub.Reference(there.repo, "", there.revision), update)
            wanted.append((listings[key], there.folder))
        else:
            wanted.append((listing, str(PurePosixPath(place.folder) / entry)))
    sizes: dict[tuple[str, str], int] = {}
    for found, path in wanted:
        size = next((file.size for file in found.files if file.path == path), None)
        if size is None:
            raise TranscoderError(
                f"{reference} lists {path}, which {found.repo} does not hold at commit "
                f"{found.commit[:8]}: tell its publisher"
                if found.complete
                else f"{reference} lists {path} of {found.repo}, which is not in {_it(found)}: "
                "download the set again when it can"
            )
        sizes[found.repo, path] = size
    paths: dict[tuple[str, str], list[str]] = {(place.repo, listing.commit): [config_path]}
    for found, path in wanted:
        paths.setdefault((found.repo, found.commit), []).append(path)
    parts = {key: Part(*key, tuple(dict.fromkeys(chosen))) for key, chosen in paths.items()}
    listed = tuple((parts[found.repo, found.commit], path) for found, path in wanted)
    certain = all(found.complete for found in listings.values())
    return Plan(reference, place, parts[place.repo, listing.commit], listed, sizes, certain)


def run(plans: Sequence[Plan], progress: Progress | None = None) -> list[Download]:
    """Fetch what the plans want; ``progress`` counts the bytes of all of them together.

    Each is noted when it is complete. Raises :class:`tracer.errors.HubError`.
    """
    total, before, found = sum(plan.n_bytes for plan in plans), 0, []
    with _writable(paths.downloads()):
        pass  # said before anything large is fetched
    for plan in plans:
        for part in plan.parts:
            sizes = {
                p: plan.sizes[part.repo, p] for p in part.paths if (part.repo, p) in plan.sizes
            }
            size = sum(sizes.values())
            there = hub.Reference(part.repo, "", part.commit)
            counted = _counted(progress, before, size, total)
            hub.fetch(there, part.paths, counted, part.commit, sizes)
            before += size
        found.append(_finish(plan))
    return found


def _counted(
    progress: Progress | None, before: int, size: int, total: int
) -> Callable[[int, int, str], None] | None:
    """Progress of one repository as a share of all; what is there already counts as done."""
    if progress is None:
        return None

    def report(done: int, wanted: int, what: str) -> None:
        progress(before + max(size - wanted, 0) + done, total, what)

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
