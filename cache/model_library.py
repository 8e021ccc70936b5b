"""`ModelLibrary`: the models that can be opened, their downloads, and their feature examples.

It complements `Backend`, which answers questions with the models. Nothing here runs a model, and
whatever asks the network is a :class:`Job`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic
from weakref import WeakKeyDictionary

from cachetools import TTLCache

from cache.engine import AUTO, M, usable_cores
from cache.job_queue import JobQueue
from cache.jobs import Job
from cache.machine import Device, Machine, measured
from cache.memory import BoundedCache
from cache.request import ModelChoice, identity
from cache.worker import Worker
from tracer.catalog.feature_counts import features_here, features_planned
from tracer.catalog.published import Published
from tracer.catalog.resolve import ModelSource, missing, obtain
from tracer.errors import FeatureIndexError, ModelError, TracerError, one_line
from tracer.features import lookup
from tracer.features.cards import FeatureReader
from tracer.features.lookup import FeatureLookup, feature_lookup, published_lookup
from tracer.graph.graph import AttributionGraph
from tracer.hub import network_allowed
from tracer.interchange.nodes import stored_labels
from tracer.types import FeatureId

logger = logging.getLogger(__name__)

Resolve = Callable[[str, str], ModelSource]
_READERS_KEPT: Final = 4
_JOBS_KEPT: Final = 32
"""Ended downloads, and ended fetches of examples, that a page can still ask about."""
_RECENT: Final = 0.5
"""Seconds for which names and cards are looked up without looking at the model's files again."""
_GLANCE: Final = 0.05
"""Seconds that a page waits for a measurement of the accelerator."""


@dataclass(frozen=True)
class ToDownload:
    """A download as the Hub describes it, before it begins."""

    n_bytes: int
    features: int | None
    """Features per layer of the set; None if its layout does not say, or it is downloaded."""


class ModelLibrary(Generic[M]):
    """Downloads, open models, feature examples, and the machine. Any thread may call it.

    Nothing here raises anything but :class:`TracerError` and its subclasses.
    """

    def __init__(self, worker: Worker[M], resolve: Resolve) -> None:
        self._worker = worker
        self._resolve = resolve
        self._downloads = JobQueue("downloads", _JOBS_KEPT)
        self._sizes = JobQueue("download sizes")
        self._examples = JobQueue("feature examples", _JOBS_KEPT)
        self._machine_looks = JobQueue("machine")
        self._fetched: WeakKeyDictionary[Job[int], tuple[FeatureId, ...]] = WeakKeyDictionary()
        self._seen: Machine | None = None
        self._devices: tuple[Device, ...] = ()
        self._readers: BoundedCache[object, FeatureReader] = BoundedCache(_READERS_KEPT)
        self._sources: TTLCache[ModelChoice, ModelSource] = TTLCache(_READERS_KEPT, _RECENT)
        self._lock = threading.Lock()

    def close(self, timeout: float | None = None) -> None:
        """Cancel downloads and everything else; the files that have arrived are kept."""
        for queue in (self._downloads, self._sizes, self._examples, self._machine_looks):
            queue.close(timeout, cancel=True)

    # Models

    def source(self, choice: ModelChoice) -> ModelSource:
        """Find the files of a model on this disk, without asking the network.

        Raises :class:`ModelError` or :class:`TranscoderError` when they are missing or unreadable.
        """
        try:
            return self._resolve(choice.model, choice.transcoders)
        except OSError as error:
            raise ModelError(
                f"the files of {choice.model} cannot be read ({one_line(error)}): check the folder "
                "and its permissions"
            ) from error

    def recent_source(self, choice: ModelChoice) -> ModelSource:
        """Return :meth:`source`, which may be half a second old.

        For names and cards, which a page looks up one by one. Whatever is computed, or kept under
        a digest of the files, looks at them anew.
        """
        with self._lock:
            source = self._sources.get(choice)
        if source is None:
            source = self.source(choice)
            with self._lock:
                self._sources[choice] = source
        return source

    def machine(self) -> Machine:
        """Return the current memory and disk, and the accelerator once it has been measured."""
        job = self._machine_looks.submit("machine", "measuring this machine", self._look)
        job.wait(_GLANCE)
        now = measured()
        return replace(now, device=self._seen.device, gpu=self._seen.gpu) if self._seen else now

    def _look(self, job: Job[None]) -> None:
        job.report(0, 0, "measuring this machine")
        if not self._worker.lost:  # a lost device cannot be measured
            self._seen = self._worker.engine.machine()

    def devices(self) -> tuple[Device, ...]:
        """Return the devices to choose from, ``auto`` first; only it and the CPU at first.

        The others are listed once torch has been imported, which happens in the background.
        """
        if not self._devices:
            job = self._machine_looks.submit("devices", "listing the devices", self._list_devices)
            job.wait(_GLANCE)
        return self._devices or (Device(AUTO), Device("cpu", f"{usable_cores()} cores"))

    def _list_devices(self, job: Job[None]) -> None:
        job.report(0, 0, "listing the devices")
        self._devices = self._worker.engine.devices()

    def set_device(self, name: str) -> None:
        """Open models on another device; those in memory are dropped after the running job.

        Waits until torch has been imported in the background. Raises :class:`ModelError` when this
        machine does not have the device; nothing changes then.
        """

        def check(job: Job[None]) -> None:
            job.report(0, 0, f"checking the device {name}")
            self._worker.engine.check_device(name)

        self._machine_looks.submit(f"device {name}", f"the device {name}", check).result()
        self._worker.set_device(name)
        self._seen = None

    @property
    def opened(self) -> tuple[ModelChoice, ...]:
        """The models in memory, the most recently used one last."""
        return self._worker.opened

    def unload(self, choice: ModelChoice) -> None:
        """Drop a model, under whatever name it was opened, after the running job."""
        wanted = self._identity(choice)
        for known in self.opened:
            if known == choice or (wanted and self._identity(known) == wanted):
                self._worker.unload(known)

    def _identity(self, choice: ModelChoice) -> str | None:
        try:
            return identity(self.source(choice), choice)
        except TracerError:
            return None  # its files are gone: only its names identify it

    def features_here(self, choice: ModelChoice) -> int | None:
        """Return the features per layer of a set on this disk; None if unknown or not here."""
        try:
            return features_here(self.source(choice))
        except (TracerError, OSError):
            return None

    def is_here(self, choice: ModelChoice) -> bool:
        """Whether a model can be opened without asking the network."""
        try:
            self.source(choice)
        except TracerError:
            return False
        return True

    def to_download(self, choice: ModelChoice) -> Job[ToDownload]:
        """Ask the Hub what would have to be downloaded to open a model."""

        def ask(job: Job[ToDownload]) -> ToDownload:
            job.report(0, 0, "asking the hub")
            plans = missing(choice.model, choice.transcoders)
            features = (features_planned(plan) for plan in plans)
            return ToDownload(
                sum(plan.n_bytes for plan in plans),
                next((count for count in features if count is not None), None),
            )

        return self._sizes.submit(f"size {_name(choice)}", f"the size of {choice.model}", ask)

    def download(
        self, choice: ModelChoice, session: str = "", update: bool = False
    ) -> Job[ModelSource]:
        """Download all files of a model and a set; progress is in bytes.

        An ``update`` fetches the commits that the names refer to now, after a running download.
        While an update runs, a plain download joins it.
        """
        key = _name(choice, update)
        if not update and self._is_active(_name(choice, update=True)):
            key = _name(choice, update=True)

        def fetch(job: Job[ModelSource]) -> ModelSource:
            job.report(0, 0, "asking the hub")
            return obtain(choice.model, choice.transcoders, job.report, update)

        return self._downloads.submit(key, f"download {choice.model}", fetch, session)

    def downloading(self, choice: ModelChoice) -> Job[ModelSource] | None:
        """Return the latest download of a model, an unfinished one if there is one."""
        return self._downloads.get(_name(choice), _name(choice, update=True))

    def _is_active(self, key: str) -> bool:
        return any(job.key == key for job in self._downloads.jobs)

    @property
    def downloads(self) -> tuple[Job[Any], ...]:
        """The running download, then the waiting ones in order."""
        return self._downloads.jobs

    # Feature examples

    def features(self, choice: ModelChoice | Published) -> FeatureReader:
        """Return the feature cards of a set: from this disk, or also from where it is published.

        Raises a :class:`TracerError` when the set or its index cannot be read.
        """
        if isinstance(choice, Published):
            return self._published(choice)
        source = self.recent_source(choice)
        try:
            return self._reader(source, identity(source, choice))
        except OSError as error:
            raise FeatureIndexError(
                f"the feature index in {source.index_folder} cannot be read ({one_line(error)}): "
                "check the folder and its permissions"
            ) from error

    def _reader(self, source: ModelSource, files: str) -> FeatureReader:
        index_file = source.index_folder / "index.json.gz"
        changed = index_file.stat().st_mtime_ns if index_file.is_file() else 0
        key = (files, changed)
        reader = self._readers.get(key)
        if reader is None:
            reader = feature_lookup(source)
            self._readers.put(key, reader)
        return reader

    def _published(self, where: Published) -> FeatureReader:
        reader = self._readers.get(where)
        if reader is None:
            reader = published_lookup(where)
            self._readers.put(where, reader)
        return reader

    def names(self, graph: AttributionGraph) -> Mapping[FeatureId, str]:
        """Return the names of a graph's features, from its file or the index of its transcoders."""
        provenance = graph.provenance
        if not {"model", "transcoders"} <= provenance.keys():
            return stored_labels(graph)
        try:
            choice = ModelChoice(str(provenance["model"]), str(provenance["transcoders"]))
            index = self.features(choice)
        except TracerError:  # the transcoders are gone, or were never indexed
            return {}
        names: dict[FeatureId, str] = {}
        for feature in {FeatureId(int(f[0]), int(f[2])) for f in graph.features}:
            try:
                names[feature] = index.cached_name(feature)
            except TracerError as error:  # one damaged record must not lose the others
                logger.warning("feature %s has no name: %s", feature, error)
        return names

    def explain(
        self, choice: ModelChoice | Published, features: Sequence[FeatureId], key: str
    ) -> Job[int] | None:
        """Fetch the examples of features from where they are published, once per ``key``.

        None if everything known is on this disk already; the result is how many were fetched.
        What failed, or was evicted since, is fetched again after
        :data:`tracer.features.lookup.PAUSE`.
        """
        reader = self.features(choice)
        if not isinstance(reader, FeatureLookup) or not network_allowed():
            return None
        name = f"explain {choice} {key}"
        known = self._examples.get(name)
        if known is not None and not self._may_be_run_again(known, reader):
            return known

        def fetch(job: Job[int]) -> int:
            cards = reader.fetch_many(features, job.report)
            self._fetched[job] = tuple(cards)
            return len(cards)

        return self._examples.submit(name, "feature examples", fetch)

    def _may_be_run_again(self, job: Job[int], reader: FeatureLookup) -> bool:
        if (job.age or 0.0) <= lookup.PAUSE:
            return False
        fetched = self._fetched.get(job, ())
        try:
            gone = any(reader.cached_card(feature) is None for feature in fetched)
        except TracerError:
            gone = False  # reported where the card is drawn
        return job.state == "failed" or gone


def _name(choice: ModelChoice, update: bool = False) -> str:
    return f"{'update ' if update else ''}{choice.model} {choice.transcoders}"
