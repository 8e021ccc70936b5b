"""Actors on a local Ray cluster: the same graphs to the last bit, and nothing lost with an actor.

Skipped where Ray is not installed: ``pip install -r requirements-ray.txt``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import Backend, ModelChoice, open_backend
from cache.many import Row, trace_many
from cache.prompt_file import Prompt

ray = pytest.importorskip("ray")
N_PROMPTS = int(os.environ.get("CIRCUIT_RAY_PROMPTS", "12"))


def prompts() -> list[Prompt]:
    texts = [f"calc: {a}+{b}=" for a in range(10, 40) for b in range(10, 18)]
    return [Prompt(number, text) for number, text in enumerate(texts[:N_PROMPTS], 1)]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    monkeypatch.setenv("CIRCUIT_RAY", "local")
    monkeypatch.setenv("CIRCUIT_RAY_ACTORS", "2")
    monkeypatch.setenv("CIRCUIT_RAY_CORES", "1")
    backend = open_backend(tmp_path / "ray", "cpu")
    yield backend
    backend.close(60)
    ray.shutdown()


def run(backend: Backend) -> list[Row]:
    return list(trace_many(backend, prompts(), ModelChoice()))


def check_equal(cluster: Backend, rows: list[Row], tmp_path: Path) -> None:
    import torch

    assert [row.error for row in rows] == [""] * len(rows)
    serial = open_backend(tmp_path / "serial", "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for row, expected in zip(rows, run(serial), strict=True):
            left, right = cluster.graph(row.key), serial.graph(expected.key)
            assert row.key == expected.key and left is not None and right is not None
            assert left.to_bytes() == right.to_bytes()
    finally:
        torch.set_num_threads(threads)
        serial.close(60)


def test_two_actors_equal_the_serial_run_bit_for_bit_and_a_killed_one_loses_nothing(
    cluster: Backend, tmp_path: Path
) -> None:
    def kill() -> None:
        while cluster._pool is not None and len(cluster.stored()) < len(prompts()) // 3:
            time.sleep(0.05)
        actors = ray.util.state.list_actors(filters=[("state", "=", "ALIVE")])
        os.kill(actors[0].pid, 9)

    killer = threading.Thread(target=kill)
    killer.start()
    rows = run(cluster)
    killer.join(60)
    check_equal(cluster, rows, tmp_path)
