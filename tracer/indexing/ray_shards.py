"""Run the shards of a corpus in the actors of a Ray cluster.

An actor opens the model itself, by name and revision, so every machine needs its files. Batches
travel to it as token ids: only the process that builds the index needs the corpus and the folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from tracer import errors
from tracer.cluster import Cluster, calling, connect
from tracer.errors import ModelError, TracerError
from tracer.indexing.gather import Arrays, Gatherer
from tracer.indexing.plan import TokenBatch
from tracer.indexing.shards import ShardSetup, model_identity
from tracer.model.failures import as_tracer_errors
from tracer.model.model import Model, load


class ShardActor:
    """The process of one worker. Its methods run in threads; only :meth:`run` runs a model."""

    def __init__(self, cores: int, has_gpu: bool, model: dict[str, Any], setup: ShardSetup) -> None:
        """``model`` are arguments of :func:`tracer.load`."""
        self._cores, self._setup = cores, setup
        self._load = {**model, "device": "auto" if has_gpu else "cpu"}
        self._model: Model | None = None
        self._tokens = 0

    def run(self, batches: tuple[TokenBatch, ...]) -> dict[str, Any]:
        """Return the statistics of a shard; an error that was raised on purpose, by name."""
        torch.set_num_threads(self._cores)  # of the calling thread
        try:
            return self._run(batches)
        except TracerError as error:
            return {"error": str(error), "kind": type(error).__name__}

    def progress(self) -> int:
        """Return how many tokens of the running shard have been run."""
        return self._tokens

    def process_id(self) -> int:
        """Return the id of this process on its machine."""
        return os.getpid()

    def _run(self, batches: tuple[TokenBatch, ...]) -> dict[str, Any]:
        self._tokens = 0
        model = self._opened()
        promoted = [torch.tensor(tokens) for tokens in self._setup.promoted]
        advice = "lower batch_tokens, or use another device"
        with as_tracer_errors("indexing a corpus", model.device, advice):
            gatherer = Gatherer(model, promoted, self._setup.n_tags, self._setup.context)
            for batch in batches:
                gatherer.add(batch)
                self._tokens += batch.n_tokens
        return {
            name: tensor.cpu().numpy()
            for name, tensor in gatherer.tensors().items()
            if not name.endswith(".promoted")
        }

    def _opened(self) -> Model:
        if self._model is None:
            model = load(**self._load)
            if model_identity(model) != self._setup.identity:
                raise ModelError(
                    f"a worker has other files of {model.source.name} than the process that builds "
                    "the index: name a revision (org/name@commit) and give all machines the same "
                    "files"
                )
            self._model = model
        return self._model


class RayShard:
    """A :class:`tracer.indexing.shards.ShardWorker` in a Ray actor."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self._running: Any = None

    def submit(self, batches: tuple[TokenBatch, ...]) -> None:
        with calling():
            self._running = self.actor.run.remote(batches)

    def progress(self) -> int:
        import ray

        try:
            with calling():
                return int(ray.get(self.actor.progress.remote(), timeout=2.0))
        except ray.exceptions.GetTimeoutError:
            return 0

    def finished(self, timeout: float) -> Callable[[], Arrays] | None:
        import ray

        running = self._running

        def fetch() -> Arrays:
            with calling():
                answer: dict[str, Any] = ray.get(running)
            if "error" in answer:
                raise getattr(errors, answer["kind"], TracerError)(answer["error"])
            return answer

        with calling():
            ready, _ = ray.wait([running], timeout=timeout)
        return fetch if ready else None

    def close(self) -> None:
        import ray

        with calling():
            ray.kill(self.actor)


class RayShards:
    """The :class:`tracer.indexing.shards.ShardWorkers` of a Ray cluster.

    ``address`` is ``local`` or that of a cluster; the other arguments are those of
    :func:`tracer.load` for the model of the index.

    Raises :class:`TracerError` when Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, address: str, name: str, transcoders: str | None, **options: Any) -> None:
        self._cluster: Cluster = connect(address)
        self._model = {"name": name, "transcoders": transcoders, **options}

    @property
    def count(self) -> int:
        """How many workers there can be at a time."""
        return self._cluster.count

    def start(self, setup: ShardSetup) -> RayShard:
        """Start a worker."""
        return RayShard(self._cluster.start(ShardActor, self._model, setup))
