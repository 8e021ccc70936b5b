"""Memory of long prompts: peak of the process at 500, 1,000 and 2,000 tokens.

    python benchmarks/long_prompts.py

The model and transcoders of `attribution.py` (12 layers, d_model 768, about 60 active features per
token and layer, so 1.4 million at 2,000 tokens), 512 features expanded, float32, each length in a
process of its own. ``--limit`` is the memory in GB that a whole process may take.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


def peak() -> int:
    """Bytes the process has taken at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def one(folder: Path, n_tokens: int, max_features: int, limit: float, dtype: str) -> None:
    """Trace one prompt of ``n_tokens`` and print what it took, as one line of JSON."""
    import torch

    import tracer

    model = tracer.load(
        str(folder / "model"), str(folder / "transcoders"), device="cpu", dtype=dtype
    )
    torch.manual_seed(0)
    ids = [1, *(int(i) for i in torch.randint(4, 2048, (n_tokens - 1,)))]
    opened = peak()
    start = time.perf_counter()
    graph = tracer.trace(
        model,
        ids,
        max_features=max_features,
        rank_every=128,
        memory_limit=int(limit * 1e9) - opened,
    )
    found = {
        "seconds": time.perf_counter() - start,
        "opened_gb": opened / 1e9,
        "peak_gb": peak() / 1e9,
        "active": graph.n_active_features,
        "edges": graph.n_edges,
        "dropped": graph.dropped_weight,
    }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[500, 1000, 2000])
    parser.add_argument("--max-features", type=int, default=512)
    parser.add_argument("--limit", type=float, default=8.0, help="GB for the whole process (8)")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        folder, n_tokens = options.one
        one(Path(folder), int(n_tokens), options.max_features, options.limit, options.dtype)
        return
    with tempfile.TemporaryDirectory() as name:
        built = (
            "from pathlib import Path; from attribution import build; "
            f"build(Path({name!r}), 12, 768, 2048)"
        )
        paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}

        subprocess.run([sys.executable, "-c", built], check=True, env={**os.environ, **paths})
        heads = ("tokens", "active", "seconds", "peak GB", "edges", "dropped")
        print("{:>6} {:>9} {:>8} {:>8} {:>11} {:>8}".format(*heads))
        before = None
        for n_tokens in options.tokens:
            command = [sys.executable, __file__, "--one", name, str(n_tokens)]
            command += ["--max-features", str(options.max_features)]
            command += ["--limit", str(options.limit), "--dtype", options.dtype]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(answer.stdout.splitlines()[-1])
            growth = "" if before is None else f"  {found['peak_gb'] / before:.2f} times the peak"
            print(
                f"{n_tokens:>6} {found['active']:>9,} {found['seconds']:>8.1f} "
                f"{found['peak_gb']:>8.2f} {found['edges']:>11,} {found['dropped']:>8.5f}{growth}",
                flush=True,
            )
            before = found["peak_gb"]


if __name__ == "__main__":
    main()
