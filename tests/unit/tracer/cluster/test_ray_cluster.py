"""How a cluster is asked for, with a stand-in for Ray. Real actors are in `tests/cluster`."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import cache
import tracer
from cache import ray_workers
from tracer.cluster import WorkerLost, calling, connect
from tracer.errors import TracerError


class FakeRay(types.ModuleType):
    """The parts of Ray that are used to connect and to call."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.options: dict[str, Any] = {}
        self.resources: dict[str, float] = {"CPU": 16.0}
        self.refuses = ""
        self.exceptions = types.SimpleNamespace(
            RayActorError=type("RayActorError", (Exception,), {}),
            NodeDiedError=type("NodeDiedError", (Exception,), {}),
            ObjectLostError=type("ObjectLostError", (Exception,), {}),
            RayTaskError=type("RayTaskError", (Exception,), {"cause": ValueError("odd")}),
        )

    def init(self, **options: Any) -> None:
        if self.refuses:
            raise ConnectionError(self.refuses)
        self.options = options

    def cluster_resources(self) -> dict[str, float]:
        return self.resources


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    for name in ("PYTHONPATH", "CIRCUIT_RAY_ACTORS", "CIRCUIT_RAY_CORES", "RAY_worker_niceness"):
        monkeypatch.setenv(name, "")  # restored afterwards, also if the code sets it
    return fake


def test_there_is_one_actor_per_gpu_or_per_four_cores(ray: FakeRay) -> None:
    assert (connect("auto").count, ray.options["address"]) == (4, "auto")
    ray.resources = {"CPU": 64.0, "GPU": 3.0}
    cluster = connect("auto")
    assert (cluster.count, cluster.has_gpu) == (3, True)
    ray.resources = {"CPU": 2.0}
    assert connect("auto").count == 1


def test_the_environment_sets_the_actors_and_their_cores(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIRCUIT_RAY_ACTORS", "200")
    monkeypatch.setenv("CIRCUIT_RAY_CORES", "2")
    cluster = connect("local")
    assert (cluster.count, cluster.cores) == (200, 2)
    assert ray.options["num_cpus"] == 400, "so that all of them start at once"
    assert ray.options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("CIRCUIT_RAY_CORES", "many")
    with pytest.raises(TracerError, match="CIRCUIT_RAY_CORES is 'many': expected a number from 1"):
        connect("local")


def test_actors_import_what_the_caller_imports(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the package is installed, `cache` and `tracer` are in different folders."""
    monkeypatch.setenv("PYTHONPATH", "/mine")
    connect("auto", tmp_path)
    path = ray.options["runtime_env"]["env_vars"]["PYTHONPATH"].split(os.pathsep)
    assert path == [str(tmp_path), str(Path(tracer.__file__).resolve().parents[1]), "/mine"]
    ray_workers.connect("auto")
    path = ray.options["runtime_env"]["env_vars"]["PYTHONPATH"].split(os.pathsep)
    assert path[0] == str(Path(cache.__file__).resolve().parents[1])


def test_a_cluster_that_does_not_answer_is_named(ray: FakeRay) -> None:
    ray.refuses = "nobody\nlistens"
    with pytest.raises(TracerError, match=r"cluster at ray://head:1 does not answer \(nobody"):
        connect("ray://head:1")


def test_without_ray_one_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TracerError, match=r"not installed: pip install -r requirements-ray\.txt"):
        connect("local")


@pytest.mark.parametrize("name", ["RayActorError", "NodeDiedError", "ObjectLostError"])
def test_what_is_gone_with_its_machine_is_a_lost_worker(ray: FakeRay, name: str) -> None:
    with pytest.raises(WorkerLost, match="the node is gone"), calling():
        raise getattr(ray.exceptions, name)("the node is gone")


def test_a_bug_in_an_actor_is_an_error_and_not_a_lost_worker(ray: FakeRay) -> None:
    with pytest.raises(TracerError, match="a worker failed with an unexpected error"), calling():
        raise ray.exceptions.RayTaskError("traceback")
