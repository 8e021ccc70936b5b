"""Actors on a local Ray cluster: the same graphs to the last bit, and nothing lost with an actor.

Skipped where Ray is not installed: ``pip install -r requirements-ray.txt``.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import Backend, ModelChoice, open_backend
from cache.engine import TracerEngine
from cache.many import Row, trace_many
from cache.prompt_file import Prompt
from cache.ray_workers import RayTracer, connect
from cache.store import Store

ray = pytest.importorskip("ray")
N_PROMPTS = int(os.environ.get("CIRCUIT_RAY_PROMPTS", "12"))


def prompts() -> list[Prompt]:
    texts = [f"calc: {a}+{b}=" for a in range(10, 40) for b in range(10, 18)]
    return [Prompt(number, text) for number, text in enumerate(texts[:N_PROMPTS], 1)]


@pytest.fixture
def started() -> list[RayTracer]:
    """The workers, in the order in which they were started."""
    return []


@pytest.fixture
def cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[RayTracer]
) -> Iterator[Backend]:
    monkeypatch.setenv("CIRCUIT_RAY_ACTORS", "2")
    monkeypatch.setenv("CIRCUIT_RAY_CORES", "1")
    backend = open_backend(tmp_path / "ray", "cpu")
    start, count = connect("local")

    def start_one() -> RayTracer:
        started.append(start())
        return started[-1]

    backend.trace_on(start_one, count)
    yield backend
    backend.close(60)
    ray.shutdown()


def run(backend: Backend) -> list[Row]:
    return list(trace_many(backend, prompts(), ModelChoice()))


def check_equal(cluster: Backend, rows: list[Row], tmp_path: Path) -> None:
    assert [row.error for row in rows] == [""] * len(rows)
    serial = Backend(Store(tmp_path / "serial"), TracerEngine("cpu", threads=1))
    for row, expected in zip(rows, run(serial), strict=True):
        left, right = cluster.graph(row.key), serial.graph(expected.key)
        assert row.key == expected.key and left is not None and right is not None
        assert left.to_bytes() == right.to_bytes()
    serial.close(60)


def test_two_actors_equal_the_serial_run_bit_for_bit_and_a_killed_one_loses_nothing(
    cluster: Backend, started: list[RayTracer], tmp_path: Path
) -> None:
    def kill() -> None:
        while len(cluster.stored()) < N_PROMPTS // 3:
            time.sleep(0.05)
        os.kill(ray.get(started[0].actor.process_id.remote()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    begun = time.perf_counter()
    rows = run(cluster)
    seconds = time.perf_counter() - begun
    killer.join(60)
    assert len(started) == 3, "two actors, and one in place of the killed one"
    check_equal(cluster, rows, tmp_path)
    print(f"{N_PROMPTS} prompts on two actors, one killed: {seconds:.1f} s")
