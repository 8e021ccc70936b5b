"""Peak memory of opening a model of Gemma-2-2B's size with its transcoders, decoders left on disk.

    python benchmarks/opening.py [--dtype bfloat16] [--folder DIR]

Random weights in the published layouts, in a temporary folder (18 GB in float32): 26 blocks,
d_model 2304, a vocabulary of 256,000, 16,384 features a layer. A fresh process opens them with
`tracer.load` and runs them once; its peak is compared with the bytes of the model's and the
encoders' weights. Anonymous memory and mapped files are both counted, as the kernel does
(``VmHWM``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


def memory(name: str) -> int:
    """Bytes of a line of the kernel's report on this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def one(folder: Path, dtype: str) -> None:
    """Open and trace, and print what it took, as one line of JSON."""
    import tracer
    from tracer.attribution.frozen import frozen_pass
    from tracer.model.model import load

    before = memory("VmHWM")
    start = time.perf_counter()
    model = load(str(folder / "model"), str(folder / "transcoders"), "cpu", dtype)
    seconds = time.perf_counter() - start
    opened = memory("VmHWM")
    frozen_pass(model, model.encode("a b c a b"))  # reads every weight there is
    read = memory("VmHWM")
    start = time.perf_counter()
    graph = tracer.trace(model, "a b c a b", max_features=256)
    encoders = sum(layer.W_enc.nbytes for layer in model.transcoders.layers)
    weights = model.bridge.weight_bytes
    found = {
        "libraries_gb": before / 1e9,
        "model_gb": weights / 1e9,
        "encoders_gb": encoders / 1e9,
        "peak_gb": opened / 1e9,
        "peak_by_sum": opened / (weights + encoders),
        "all_read_gb": read / 1e9,
        "all_read_by_sum": read / (weights + encoders),
        "seconds": seconds,
        "trace_seconds": time.perf_counter() - start,
        "trace_peak_gb": memory("VmHWM") / 1e9,
        "active": graph.n_active_features,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--folder", type=Path, help="where to put the files, and keep them")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.folder, options.dtype)
        sys.exit()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "model").exists():
            import torch
            from random_gemma import Shape, save

            save(folder, Shape(active=14), getattr(torch, options.dtype))
        command = [sys.executable, __file__, "--one", "--folder", str(folder)]
        done = subprocess.run(
            [*command, "--dtype", options.dtype], capture_output=True, text=True, check=True
        )
        for key, value in json.loads(done.stdout.splitlines()[-1]).items():
            print(f"{key:16}{value:12.3f}")
