"""How long a trace takes that is already known: from the store (a new process), from memory.

python benchmarks/cache_hits.py ["a prompt"]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROMPT = sys.argv[1] if len(sys.argv) > 1 else "The capital of the state containing Dallas is"

FIRST_HIT = """
import sys, time
sys.path.insert(0, sys.argv[1])
start = time.perf_counter()
from pathlib import Path
from cache import TraceRequest, open_backend
imported = time.perf_counter()
backend = open_backend(Path(sys.argv[2]))
opened = time.perf_counter()
job = backend.trace(TraceRequest(sys.argv[3]))
assert job.from_cache
done = time.perf_counter()
print(imported - start, opened - imported, done - opened)
"""


def milliseconds(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:8.2f} ms"


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from cache import TraceRequest, open_backend

    with tempfile.TemporaryDirectory() as folder:
        backend = open_backend(Path(folder))
        job = backend.trace(TraceRequest(PROMPT))
        graph = job.result(600)
        print(f"{graph.n_nodes} nodes, {graph.n_edges} edges, {backend.store.use.traced} bytes")
        print(f"computed, model not yet open {milliseconds([job.seconds or 0.0])}")
        warm = []
        for _ in range(200):
            start = time.perf_counter()
            assert backend.trace(TraceRequest(PROMPT)).result() is graph
            warm.append(time.perf_counter() - start)
        print(f"from memory                  {milliseconds(warm)}")
        backend.close()
        command = [sys.executable, "-c", FIRST_HIT, str(ROOT), folder, PROMPT]
        runs = [
            [float(part) for part in subprocess.check_output(command, text=True).split()]
            for _ in range(5)
        ]
        names = (
            "new process: import cache   ",
            "new process: open the store ",
            "new process: first hit      ",
        )
        for name, seconds in zip(names, zip(*runs, strict=True), strict=True):
            print(f"{name} {milliseconds(list(seconds))}")


if __name__ == "__main__":
    main()
