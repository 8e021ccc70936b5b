"""A Ray cluster: one actor per GPU, or per several CPU cores.

Ray is optional (``requirements-ray.txt``) and imported only when a cluster is asked for: ``local``
for actors on this machine, or an address such as ``ray://head:10001``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tracer.errors import TracerError, one_line

VARIABLE: Final = "CIRCUIT_RAY"
ACTORS: Final = "CIRCUIT_RAY_ACTORS"
CORES: Final = "CIRCUIT_RAY_CORES"
_CORES: Final = 4
_TRACER: Final = Path(__file__).resolve().parents[2]
"""The folder that `tracer` is in."""


class WorkerLost(Exception):
    """The process of a remote worker has ended, or its machine is gone."""


@dataclass(frozen=True)
class Cluster:
    """A connected cluster."""

    count: int
    """How many actors to start."""
    cores: int
    """CPU cores of each."""
    has_gpu: bool
    """Whether each has a GPU."""

    def start(self, kind: type, *args: Any) -> Any:
        """Start an actor of a class; its constructor gets the cores, whether it has a GPU, and
        ``args``."""
        import ray

        remote = ray.remote(kind).options(
            num_gpus=1 if self.has_gpu else 0,
            num_cpus=0 if self.has_gpu else self.cores,
            max_concurrency=4,
        )
        with calling():
            return remote.remote(self.cores, self.has_gpu, *args)


@contextmanager
def calling() -> Iterator[None]:
    """Raise :class:`WorkerLost` if an actor, or the memory of its machine, is gone.

    An error of the actor's code is a :class:`TracerError`.
    """
    import ray

    try:
        yield
    except (
        ray.exceptions.RayActorError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.ObjectLostError,
    ) as error:
        raise WorkerLost(one_line(error)) from error
    except ray.exceptions.RayTaskError as error:
        raise TracerError(
            f"a worker failed with an unexpected error ({one_line(error.cause)}): see Ray's log"
        ) from error


def connect(address: str, *folders: Path) -> Cluster:
    """Connect to a cluster: ``local``, or an address.

    Actors import from the folder of `tracer`, from ``folders``, and from ``PYTHONPATH``.

    Raises :class:`TracerError` when Ray is not installed, or the cluster does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise TracerError(
            f"the Ray cluster {address!r} cannot be used, because Ray is not installed: "
            f"pip install -r requirements-ray.txt, or unset {VARIABLE}"
        ) from error
    cores = _number(CORES, _CORES)
    known = filter(None, [os.environ.get("PYTHONPATH")])
    path = os.pathsep.join([*map(str, dict.fromkeys([*folders, _TRACER])), *known])
    options: dict[str, Any] = {
        "runtime_env": {"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": str(cores)}},
        "log_to_driver": False,
        "ignore_reinit_error": True,
    }
    if address == "local":
        os.environ.setdefault("RAY_worker_niceness", "0")  # else all other work comes first
        options |= {"include_dashboard": False, "num_cpus": cores * _number(ACTORS, 1)}
        options["num_cpus"] = max(options["num_cpus"], os.cpu_count() or 1)
    else:
        options["address"] = address
    try:
        ray.init(**options)
        resources = ray.cluster_resources()
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise TracerError(
            f"the Ray cluster at {address} does not answer ({one_line(error)}): check {VARIABLE}"
        ) from error
    gpus = int(resources.get("GPU", 0))
    count = _number(ACTORS, gpus or max(1, int(resources.get("CPU", 1)) // cores))
    return Cluster(count, cores, bool(gpus))


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise TracerError(f"{variable} is {text!r}: expected a number from 1")
    return int(text)
