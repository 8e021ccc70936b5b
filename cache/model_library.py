"""`ModelLibrary`: the models that can be opened, got ready for it, and what their features fire on.

Beside `Backend`, which answers questions with them. Nothing here runs a model; whatever asks the
network is a :class:`Job`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic
from weakref import WeakKeyDictionary

from cache.engine import M
from cache.job_queue import JobQueue
from cache.jobs import Job
from cache.machine import Machine, looked_at
from cache.memory import BoundedCache
from cache.request import ModelChoice, Published, identity
from cache.worker import Worker
from tracer.catalog.feature_counts import features_here, features_planned
from tracer.catalog.resolve import ModelSource, missing, obtain
from tracer.errors import TracerError
from tracer.features import lookup
from tracer.features.cards import FeatureReader
from tracer.features.lookup import FeatureLookup, feature_lookup, neuronpedia_lookup
from tracer.hub import network_allowed
from tracer.types import FeatureId

Resolve = Callable[[str, str], ModelSource]
_READERS_KEPT: Final = 4
_JOBS_KEPT: Final = 32
"""Ended downloads, and ended fetches of examples, that a page can still ask about."""
_GLANCE: Final = 0.05
"""Seconds that a page waits for a look at the accelerator."""


@dataclass(frozen=True)
class ToDownload:
    """What the hub says of a download before it begins."""

    n_bytes: int
    features: int | None
    """Per layer of the set; None where its layout does not say, or it is here already."""


class ModelLibrary(Generic[M]):
    """Downloads, what is open, feature examples, and what the machine has."""

    def __init__(self, worker: Worker[M], resolve: Resolve) -> None:
        self._worker = worker
        self._resolve = resolve
        self._downloads = JobQueue("downloads", _JOBS_KEPT)
        self._sizes = JobQueue("download sizes")
        self._examples = JobQueue("feature examples", _JOBS_KEPT)
        self._machine_looks = JobQueue("machine")
        self._fetched: WeakKeyDictionary[Job[int], tuple[FeatureId, ...]] = WeakKeyDictionary()
        self._seen: Machine | None = None
        self._readers: BoundedCache[tuple[object, ...], FeatureReader] = BoundedCache(_READERS_KEPT)

    def close(self, timeout: float | None = None) -> None:
        """Stop downloading: what has arrived is kept."""
        for queue in (self._downloads, self._sizes, self._examples, self._machine_looks):
            queue.close(timeout, cancel=True)

    # Models

    def machine(self) -> Machine:
        """Memory and disk, at once; with the accelerator once somebody has looked."""
        job = self._machine_looks.submit("machine", "looking at this machine", self._look)
        job.wait(_GLANCE)
        now = looked_at()
        return replace(now, device=self._seen.device, gpu=self._seen.gpu) if self._seen else now

    def _look(self, job: Job[None]) -> None:
        job.report(0, 0, "looking at this machine")
        self._seen = self._worker.engine.machine()

    @property
    def opened(self) -> tuple[ModelChoice, ...]:
        """The models that are in memory, the one used last at the end."""
        return self._worker.opened

    def unload(self, choice: ModelChoice) -> None:
        """Let a model go, by whatever names it was opened, once the running work is done."""
        wanted = self._identity(choice)
        for known in self.opened:
            if known == choice or (wanted and self._identity(known) == wanted):
                self._worker.unload(known)

    def _identity(self, choice: ModelChoice) -> str | None:
        try:
            return identity(self._resolve(choice.model, choice.transcoders), choice)
        except (TracerError, OSError):
            return None  # its files are gone: it is known by its names alone

    def features_here(self, choice: ModelChoice) -> int | None:
        """Features per layer of a set on this disk; None where it is not, or does not say."""
        try:
            return features_here(self._resolve(choice.model, choice.transcoders))
        except (TracerError, OSError):
            return None

    def is_here(self, choice: ModelChoice) -> bool:
        """Whether a model can be opened without asking the network."""
        try:
            self._resolve(choice.model, choice.transcoders)
        except TracerError:
            return False
        return True

    def to_download(self, choice: ModelChoice) -> Job[ToDownload]:
        """What would have to be downloaded, by the hub's own account."""

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
        """Have all files of a model and a set on this disk; progress is in bytes.

        An ``update`` waits for a download that runs; a download is content with an update.
        """
        key = _name(choice, update)
        if not update and self._is_active(_name(choice, update=True)):
            key = _name(choice, update=True)

        def fetch(job: Job[ModelSource]) -> ModelSource:
            job.report(0, 0, "asking the hub")
            return obtain(choice.model, choice.transcoders, job.report, update)

        return self._downloads.submit(key, f"download {choice.model}", fetch, session)

    def downloading(self, choice: ModelChoice) -> Job[ModelSource] | None:
        """The latest download of a model, ended or not; before others one that has not ended."""
        return self._downloads.get(_name(choice), _name(choice, update=True))

    def _is_active(self, key: str) -> bool:
        return any(job.key == key for job in self._downloads.jobs)

    @property
    def downloads(self) -> tuple[Job[Any], ...]:
        """Those that run or wait."""
        return self._downloads.jobs

    # What features fire on

    def features(self, choice: ModelChoice | Published) -> FeatureReader:
        """What the features of a set fire on, from this disk or, where it is published, further.

        Raises a :class:`TracerError` when the set or its index cannot be read.
        """
        if isinstance(choice, Published):
            return self._published(choice)
        source = self._resolve(choice.model, choice.transcoders)
        index_file = source.index_folder / "index.json.gz"
        changed = index_file.stat().st_mtime_ns if index_file.is_file() else 0
        key = (identity(source, choice), changed)
        reader = self._readers.get(key)
        if reader is None:
            reader = feature_lookup(source)
            self._readers.put(key, reader)
        return reader

    def _published(self, where: Published) -> FeatureReader:
        key = (where.model, where.source_set)
        reader = self._readers.get(key)
        if reader is None:
            reader = neuronpedia_lookup(*key)
            self._readers.put(key, reader)
        return reader

    def explain(
        self, choice: ModelChoice | Published, features: Sequence[FeatureId], key: str
    ) -> Job[int] | None:
        """Fetch the examples of features from where they are published, once for each ``key``.

        None where all there is to know is on this disk; the result is how many were found. What
        failed, or had to make room since, is fetched again after
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
            gone = False  # told where the card is drawn
        return job.state == "failed" or gone


def _name(choice: ModelChoice, update: bool = False) -> str:
    return f"{'update ' if update else ''}{choice.model} {choice.transcoders}"
