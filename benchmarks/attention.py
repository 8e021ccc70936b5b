"""What it costs to ask which heads carried a node's input, and why one of them looked there.

    python benchmarks/attention.py

On the embedded model, and on the random model of `attribution.py` (12 layers, d_model 768), as
multiples of one trace (4,096 features expanded at most). Quote ratios, not seconds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from attribution import build

import tracer

RUNS = 5


def median_s(work: Callable[[], Any], runs: int = RUNS) -> float:
    """Of several runs, after one that warms up."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def measure(name: str, model: tracer.Model, prompt: Any, layer: int) -> None:
    """Print the cost of a trace, and of every question about attention as a multiple of it."""
    trace = median_s(lambda: tracer.trace(model, prompt, max_features=4096), 3)
    graph = tracer.trace(model, prompt, max_features=4096)
    logit = graph.index.node(graph.index.logit_rows.start)
    token = graph.index.node(graph.index.token_rows.start + 1)
    query, key = len(graph.tokens) - 1, len(graph.tokens) - 2

    def explain(versus: Any = None) -> Any:
        return tracer.explain_attention(model, graph, layer, 0, query, key, versus)

    why = explain()
    questions: dict[str, Callable[[], Any]] = {
        "head split of the answer": lambda: tracer.split_by_head(model, graph, logit),
        "paths of one edge": lambda: tracer.head_paths(model, graph, token, logit),
        "one head, marginals and pair vectors": explain,
        "the same against the rest": lambda: explain("rest"),
        "ten strongest pairs of it": lambda: why.pairs(10),
    }
    print(f"{name}: {graph.n_active_features} active features, one trace {trace:.2f} s")
    for question, work in questions.items():
        seconds = median_s(work)
        print(f"  {question:38} {seconds:6.3f} s, {seconds / trace:5.2f} of a trace")


def main() -> None:
    measure("atlas", tracer.load("atlas"), "The capital of the state containing Dallas is", 4)
    with tempfile.TemporaryDirectory() as folder:
        model = tracer.load(*map(str, build(Path(folder), 12, 768, 2048)), device="cpu")
        torch.manual_seed(0)
        ids = [1, *torch.randint(4, 2048, (11,)).tolist()]
        measure("12 layers, width 768", model, ids, 10)


if __name__ == "__main__":
    main()
