"""Trace many prompts with two Ray actors and with one process: speed, equality, a killed actor.

    python benchmarks/ray_traces.py [--prompts 200] [--actors 2]

Needs Ray (``pip install -r requirements-ray.txt``). Every worker has one core. One actor is killed
after a third of the prompts. The graphs must equal those of the single process to the last bit.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cache import Backend, ModelChoice, open_backend
from cache.engine import TracerEngine
from cache.many import Row, trace_many
from cache.prompt_file import Prompt
from cache.ray_workers import RayTracer, connect
from cache.store import Store


def run(backend: Backend, prompts: list[Prompt]) -> tuple[list[Row], float]:
    """Trace the prompts and return their rows and the seconds."""
    begun = time.perf_counter()
    rows = list(trace_many(backend, prompts, ModelChoice()))
    return rows, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--actors", type=int, default=2)
    options = parser.parse_args()
    texts = [f"calc: {a}+{b}=" for a in range(10, 90) for b in range(10, 30)][: options.prompts]
    prompts = [Prompt(number, text) for number, text in enumerate(texts, 1)]
    os.environ |= {"CIRCUIT_RAY_ACTORS": str(options.actors), "CIRCUIT_RAY_CORES": "1"}
    with tempfile.TemporaryDirectory() as folder:
        serial = Backend(Store(Path(folder) / "serial"), TracerEngine("cpu", threads=1))
        serial.warm(ModelChoice()).result()
        expected, alone = run(serial, prompts)
        print(f"one process: {len(prompts)} prompts in {alone:.1f} s")

        cluster = open_backend(Path(folder) / "cluster", "cpu")
        start, count = connect("local")
        started: list[RayTracer] = []

        def start_one() -> RayTracer:
            started.append(start())
            return started[-1]

        cluster.trace_on(start_one, count)
        warm = [Prompt(0, f"The opposite of {word} is") for word in ("hot", "small")]
        run(cluster, warm * count)  # opens the models
        known = len(cluster.stored())

        def kill() -> None:
            import ray

            while len(cluster.stored()) - known < len(prompts) // 3:
                time.sleep(0.05)
            os.kill(ray.get(started[0].actor.process_id.remote()), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        rows, together = run(cluster, prompts)
        killer.join()
        failed = [row.error for row in rows if row.error]
        different = 0
        for row, other in zip(rows, expected, strict=True):
            left, right = cluster.graph(row.key), serial.graph(other.key)
            different += (
                left is None or right is None or left.to_bytes() != right.to_bytes()
            )  # fmt: skip
        print(
            f"{count} actors, one killed and replaced ({len(started)} started): {together:.1f} s, "
            f"{alone / together:.2f} times as fast; {len(failed)} failed, {different} differ"
        )
        cluster.close(60)
        serial.close(60)
    if failed or different:
        sys.exit(1)


if __name__ == "__main__":
    main()
