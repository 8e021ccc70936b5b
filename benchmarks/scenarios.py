"""What ten scenarios cost compared with one, on the embedded model and on a larger random one.

    python benchmarks/scenarios.py

Ten scenarios, each switching off three features, answered by one batched forward pass; beside it
one scenario, and the ten one after the other. The larger model is that of `attribution.py`
(12 layers, d_model 768), 12 tokens. Quote ratios, not seconds.
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
from tracer.interventions.scenario import Scenario, edit_all

RUNS = 15


def median_ms(work: Callable[[], Any]) -> float:
    """Of several runs, after two that warm up."""
    times = []
    for _ in range(RUNS + 2):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def measure(name: str, model: tracer.Model, prompt: Any) -> None:
    """Print one scenario, ten in a batch, and ten apart; with and without generated tokens."""
    index = tracer.trace(model, prompt, max_features=64).index
    nodes = [index.node(row) for row in range(index.n_features)]
    scenarios = [
        Scenario(f"{i}", edit_all(nodes[3 * i : 3 * i + 3], "set", 0.0)) for i in range(10)
    ]
    for generate in (0, 10):

        def run(chosen: list[Scenario], count: int = generate) -> None:
            tracer.run_scenarios(model, prompt, chosen, generate=count)

        one = median_ms(lambda: run(scenarios[:1]))
        ten = median_ms(lambda: run(scenarios))
        apart = median_ms(lambda: [run([scenario]) for scenario in scenarios])
        print(
            f"{name}, {generate} tokens generated: one {one:.0f} ms, ten {ten:.0f} ms "
            f"({ten / one:.1f} times one; one after the other {apart / one:.1f} times)"
        )


def main() -> None:
    measure("atlas", tracer.load("atlas"), "The capital of the state containing Dallas is")
    with tempfile.TemporaryDirectory() as folder:
        model = tracer.load(*map(str, build(Path(folder), 12, 768, 2048)), device="cpu")
        torch.manual_seed(0)
        measure("12 layers", model, [1, *torch.randint(4, 2048, (11,)).tolist()])


if __name__ == "__main__":
    main()
