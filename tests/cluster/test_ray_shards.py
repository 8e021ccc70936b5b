"""An index built by actors on a local Ray cluster: the same bytes, and nothing lost with an actor.

Skipped where Ray is not installed: ``pip install -r requirements-ray.txt``.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tracer
from tracer.indexing.ray_shards import RayShard, RayShards
from tracer.indexing.shards import ShardSetup
from tracer.types import Progress

ray = pytest.importorskip("ray")
OPTIONS: dict[str, Any] = {"context": 24, "batch_tokens": 48, "shard_tokens": 60}
CITIES = ("Austin", "Paris", "Rome", "Salem", "Boston", "Lima")
STATES = ("Texas", "France", "Italy", "Oregon", "Massachusetts", "Peru")


class Watched(RayShards):
    """Workers of which the first is killed as soon as it has begun its second shard."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.started: list[RayShard] = []

    def start(self, setup: ShardSetup) -> RayShard:
        worker = super().start(setup)
        self.started.append(worker)
        if len(self.started) == 1:
            self._kill_in_its_second_shard(worker)
        return worker

    def _kill_in_its_second_shard(self, worker: RayShard) -> None:
        submit, process = worker.submit, worker.actor.process_id.remote()
        shards = 0

        def submit_and_kill(batches: Any) -> None:
            nonlocal shards
            submit(batches)
            shards += 1
            if shards == 2:
                os.kill(ray.get(process), signal.SIGKILL)

        worker.submit = submit_and_kill  # type: ignore[method-assign]


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CIRCUIT_RAY_ACTORS", "2")
    monkeypatch.setenv("CIRCUIT_RAY_CORES", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    ray.shutdown()


def file_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def within(seconds: float) -> Progress:
    """Return a progress that ends a build which takes longer."""
    limit = time.monotonic() + seconds

    def report(done: int, total: int, what: str) -> None:
        assert time.monotonic() < limit, f"{what} {done} of {total} after {seconds:.0f} s"

    return report


def test_two_actors_write_the_bytes_of_one_process_although_one_is_killed(
    one_core: None, tmp_path: Path
) -> None:
    corpus = tmp_path / "texts.txt"
    texts = [f"The capital of {state} is {city}" for state in STATES for city in CITIES]
    corpus.write_text("\n\n".join([*texts, *(f"calc: {a}+{a + 9}=" for a in range(10, 90))]))
    model = tracer.load("atlas", device="cpu")
    alone = tracer.build_index(model, corpus, tmp_path / "alone", **OPTIONS)
    begun = time.perf_counter()
    workers = Watched("local", "atlas", "per-layer")
    shared = tracer.build_index(
        model,
        corpus,
        tmp_path / "shared",
        workers=workers,
        progress=within(300),
        **OPTIONS,
    )
    print(f"two actors, one killed: {time.perf_counter() - begun:.1f} s")
    assert len(workers.started) == 3, "two actors, and one in place of the killed one"
    assert shared == alone and shared.tokens > 4 * OPTIONS["shard_tokens"]
    assert file_bytes(tmp_path / "shared") == file_bytes(tmp_path / "alone")
