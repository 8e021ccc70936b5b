"""Short ways to give a worker something to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fakes import FakeModel

from cache import Job, ModelChoice
from cache.worker import Worker

ATLAS = ModelChoice("atlas", "x")
Work = Callable[[FakeModel, Job[Any]], Any]


def ask(
    worker: Worker[FakeModel], key: str, work: Work | None = None, choice: ModelChoice = ATLAS
) -> Job[Any]:
    """Submit work whose result is its key by default."""
    fingerprint = f"{choice.model}/{choice.transcoders}"
    return worker.submit(key, key, choice, fingerprint, work or (lambda model, job: key))


def raising(error: BaseException, cause: BaseException | None = None) -> Work:
    """Return work that raises ``error``."""

    def work(model: FakeModel, job: Job[Any]) -> None:
        raise error from cause

    return work
