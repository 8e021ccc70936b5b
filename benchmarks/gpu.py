"""Every figure of an accelerator in one run of under eight minutes, for anyone with a GPU at hand.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --peer peer/bin/python     # circuit-tracer on the same folders

Random weights in the shape of Gemma-2-2B (26 layers, d_model 2304, 16,384 features a layer of which
about 60 are active, a vocabulary of 256,000), written once as bfloat16 (9 GB) to a temporary folder
or to ``--folder``. For each precision: seconds and peak memory of a trace (512 features expanded),
the rounding error that the graph reports, and how far its edges are from the CPU's. Then the
longest prompt that fits, a batch of 16 scenarios, tokens a second of an index. The figures are a
table in Markdown, to be pasted into `RESULTS.md`.

A step that would start after ``--seconds`` is left out, and the table says so. Without a GPU the
same steps run on the CPU (``--device cpu``), which is only good for testing this script: add
``--layers 2 --d-model 64 --features 256 --vocabulary 512``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch
from random_gemma import Shape, save

import tracer
from tracer.errors import MemoryLimitError, TracerError
from tracer.indexing.build import build_index
from tracer.model.device import choose_device

PRECISIONS: Final[dict[str, dict[str, Any]]] = {
    "float32": {},
    "float32 with TF32 products": {"tf32": True},
    "bfloat16 weights": {"dtype": "bfloat16"},
    "bfloat16 weights and forward pass": {"dtype": "bfloat16", "forward_dtype": "bfloat16"},
}
SHORT: Final = 12
LONG: Final = 64
SLOW: Final = 10.0
"""Seconds of a trace after which a prompt of twice the length is not tried."""
CHECKED: Final = 32
"""Features expanded where the CPU's numbers are needed, which takes it some seconds."""


class Clock:
    """The time that remains, and the lines of the table."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.lines: list[tuple[str, str]] = []

    def step(self, name: str, work: Callable[[], str]) -> None:
        """Run one step if there is time, and record what it found, or why it found nothing."""
        if time.monotonic() > self._end:
            found = "left out: the time is over"
        else:
            try:
                found = work()
            except TracerError as error:
                found = f"refused: {error}"
        self.lines.append((name, found))
        print(f"{name}: {found}", file=sys.stderr, flush=True)

    def table(self) -> str:
        rows = [f"| {name} | {found} |" for name, found in self.lines]
        return "\n".join(["| | |", "|---|---|", *rows])


class Device:
    """The device under test. The CPU has no peak to read."""

    def __init__(self, name: str) -> None:
        self.choice = choose_device(name)
        self.device = self.choice.device
        self.is_cuda = self.device.type == "cuda"

    def timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Return seconds, waiting for the device at both ends."""
        self._wait()
        start = time.perf_counter()
        result = work()
        self._wait()
        return time.perf_counter() - start, result

    def forget_peak(self) -> None:
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> str:
        if not self.is_cuda:
            return "peak not measured"
        return f"peak {torch.cuda.max_memory_allocated(self.device) / 1e9:.2f} GB"

    def _wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def prompt(n_tokens: int, vocabulary: int) -> list[int]:
    """Return random token ids after the beginning of text."""
    generator = torch.Generator().manual_seed(n_tokens)
    return [2, *torch.randint(7, vocabulary, (n_tokens - 1,), generator=generator).tolist()]


def traces(device: Device, model: tracer.Model, ids: list[int], max_features: int) -> str:
    """Return the median of three traces after a first one, and the facts of the graph."""
    tracer.trace(model, ids, max_features=max_features)
    device.forget_peak()
    runs = [
        device.timed(lambda: tracer.trace(model, ids, max_features=max_features)) for _ in range(3)
    ]
    seconds, graph = statistics.median(run[0] for run in runs), runs[-1][1]
    return (
        f"{seconds:.2f} s, {device.peak()}, {graph.n_active_features:,} active features, "
        f"{graph.n_edges:,} edges, rounding error {graph.rounding_error:.1e}"
    )


def edge_difference(left: tracer.AttributionGraph, right: tracer.AttributionGraph) -> str:
    """Return the share of absolute weight by which the edges of the common nodes differ."""
    nodes = [{g.index.node(row) for row in range(g.n_nodes)} for g in (left, right)]
    common = sorted(nodes[0] & nodes[1])
    weights = []
    for graph in (left, right):
        rows = [graph.index.row(node) for node in common]
        weights.append(graph.to_dense()[rows][:, rows])
    share = float((weights[0] - weights[1]).abs().sum() / weights[1].abs().sum())
    return f"{share:.1e} of the weight, {len(common):,} of {max(map(len, nodes)):,} nodes in both"


def longest(device: Device, model: tracer.Model, vocabulary: int, max_features: int) -> str:
    """Double the prompt until it does not fit or gets slow, and report the last that fitted."""
    best, n_tokens = "not even 128 tokens", 128
    while n_tokens <= model.bridge.n_context:
        ids = prompt(n_tokens, vocabulary)
        device.forget_peak()
        try:
            trace = partial(tracer.trace, model, ids, max_features=max_features)
            seconds, graph = device.timed(trace)
        except MemoryLimitError:
            return f"{best}; {n_tokens:,} tokens do not fit"
        best = (
            f"{n_tokens:,} tokens in {seconds:.1f} s, {device.peak()}, "
            f"{graph.n_active_features:,} active features"
        )
        if seconds > SLOW:
            return f"{best}; longer prompts were not tried"
        n_tokens *= 2
    return f"{best}; the model reads no more"


def scenarios(device: Device, model: tracer.Model, ids: list[int]) -> str:
    """Run 16 scenarios that switch off one feature each, and generate 10 tokens."""
    graph = tracer.trace(model, ids, max_features=16)
    edits = [
        tracer.Scenario(str(row), (tracer.Edit.at(graph.index.node(row), "set", 0.0),))
        for row in range(min(16, graph.index.n_features))
    ]
    tracer.run_scenarios(model, ids, edits, generate=10)
    seconds, _ = device.timed(lambda: tracer.run_scenarios(model, ids, edits, generate=10))
    return f"{seconds:.2f} s for {len(edits)} scenarios and 10 tokens each"


def index(device: Device, model: tracer.Model, folder: Path, n_documents: int) -> str:
    """Index a corpus of random words."""
    corpus = folder / "corpus.txt"
    generator = torch.Generator().manual_seed(0)
    words = [
        [("a", "b", "c")[i] for i in torch.randint(3, (120,), generator=generator).tolist()]
        for _ in range(n_documents)
    ]
    corpus.write_text("\n\n".join(" ".join(document) for document in words))
    seconds, summary = device.timed(
        lambda: build_index(model, corpus, folder / "features", checkpoint_tokens=None)
    )
    return f"{summary.tokens / seconds:,.0f} tokens/s over {summary.tokens:,} tokens"


def peer(options: argparse.Namespace, folder: Path, device: Device) -> str:
    """Run circuit-tracer in its own environment on the same folders and prompt."""
    ids = prompt(LONG, options.vocabulary)
    (folder / "ids.json").write_text(json.dumps(ids))
    script = str(ROOT / "benchmarks" / "peer_attribution.py")
    numbers = map(str, (options.max_features, 512, torch.get_num_threads(), 256))
    command = [options.peer, script, str(folder), *numbers, "--device", str(device.device)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, timeout=options.seconds, check=False
    )
    if done.returncode:
        return f"failed with exit status {done.returncode}"
    answer = json.loads(done.stdout.splitlines()[-1])
    return f"{answer['seconds']['256']:.2f} s, peak {answer['peak_gib'] * 2**30 / 1e9:.2f} GB"


def measure(options: argparse.Namespace, folder: Path) -> str:
    """Run every step and return the table."""
    clock, device = Clock(options.seconds), Device(options.device)
    shape = Shape(
        options.layers, options.d_model, options.features, options.vocabulary, options.active
    )
    folders = folder / "model", folder / "transcoders"
    if not folders[1].exists():
        numbers = "cpu" if device.device.type == "mps" else str(device.device)
        save(folder, shape, torch.bfloat16, numbers)
    clock.lines.append(("device", device.choice.describe(torch.float32)))
    short, long = (prompt(n, options.vocabulary) for n in (SHORT, LONG))

    def opened(**precision: Any) -> tracer.Model:
        return tracer.load(*map(str, folders), device=options.device, **precision)

    on_cpu: dict[str, tracer.AttributionGraph] = {}

    def reference() -> str:
        model = tracer.load(*map(str, folders), device="cpu")
        on_cpu["graph"] = tracer.trace(model, short, max_features=CHECKED)
        return f"{SHORT} tokens, {CHECKED} features expanded: the reference of the next lines"

    clock.step("CPU", reference)
    for name in options.precision:
        precision = PRECISIONS[name]
        model: tracer.Model | None = None

        def opening(precision: dict[str, Any] = precision) -> str:
            nonlocal model
            device.forget_peak()
            seconds, model = device.timed(lambda: opened(**precision))
            return f"{seconds:.1f} s, {device.peak()}"

        clock.step(f"{name}: opening", opening)
        if model is None:
            continue
        for ids in (short, long):
            clock.step(
                f"{name}: {len(ids)} tokens",
                lambda model=model, ids=ids: traces(device, model, ids, options.max_features),
            )
        if on_cpu:
            clock.step(
                f"{name}: edges beside the CPU's",
                lambda model=model: edge_difference(
                    tracer.trace(model, short, max_features=CHECKED), on_cpu["graph"]
                ),
            )
        if name in ("float32", "bfloat16 weights"):
            clock.step(
                f"{name}: longest prompt",
                lambda model=model: longest(
                    device, model, options.vocabulary, options.max_features
                ),
            )
            clock.step(f"{name}: scenarios", lambda model=model: scenarios(device, model, long))
        if name == "bfloat16 weights":
            clock.step(
                f"{name}: index",
                lambda model=model: index(device, model, folder, options.documents),
            )
    if options.peer:
        clock.step("circuit-tracer, float32, 64 tokens", lambda: peer(options, folder, device))
    return clock.table()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=400.0, help="start no step after these")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--max-features", type=int, default=512)
    parser.add_argument("--documents", type=int, default=512, help="of 120 tokens, to index")
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--d-model", type=int, default=Shape.d_model)
    parser.add_argument("--features", type=int, default=Shape.features)
    parser.add_argument("--vocabulary", type=int, default=Shape.vocabulary)
    parser.add_argument("--active", type=float, default=Shape.active)
    parser.add_argument("--folder", type=Path, help="where to put the files, and keep them")
    parser.add_argument("--peer", help="Python of an environment with circuit-tracer 0.5.0")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        print(measure(options, options.folder or Path(temporary)))


if __name__ == "__main__":
    main()
