"""Options that several commands share, and what they open."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.errors import TracerError
from tracer.graph.graph import AttributionGraph

if TYPE_CHECKING:
    from tracer.model.model import Model


class Teaching(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the examples."""


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which model, which transcoders, where and in which data type."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="atlas",
        metavar="NAME",
        help="atlas (the embedded one, the default), a name that 'models' lists, "
        "org/name[@revision] on the hub, or the folder of a Hugging Face model",
    )
    group.add_argument(
        "--transcoders",
        metavar="NAME",
        help="per-layer or cross-layer for atlas, a set's name that 'models' lists, "
        "org/name[/folder][@revision] on the hub, or a folder (the model's first set)",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (auto)")
    group.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="bfloat16 takes half the memory and says how far off each graph is (float32)",
    )


def add_pruning_options(parser: argparse.ArgumentParser) -> None:
    """Thresholds, and JSON."""
    parser.add_argument(
        "--node-threshold",
        type=float,
        default=0.8,
        help="share of the influence that the kept nodes carry, 0 to 1 (0.8)",
    )
    parser.add_argument(
        "--edge-threshold",
        type=float,
        default=0.98,
        help="of what flows into them, the share that the kept edges carry, 0 to 1 (0.98)",
    )
    add_json(parser)


def add_json(parser: argparse.ArgumentParser) -> None:
    """The same for every command."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def print_json(value: Any) -> None:
    """As text that a person can read too."""
    print(json.dumps(value, ensure_ascii=False, indent=1))


def open_model(options: argparse.Namespace) -> Model:
    """What the model options name, downloaded first if need be."""
    import tracer

    with Progress() as progress:
        return tracer.load(
            options.model,
            options.transcoders,
            options.device,
            options.dtype,
            progress=progress.bytes,
        )


def open_graph(path: str) -> AttributionGraph:
    """A graph of ours, or one that another tool published; told apart by the file's name."""
    import tracer

    suffix = Path(path).suffix
    if suffix == ".json":
        return tracer.graph_from_external(tracer.read_graph_json(path))
    if suffix == ".pt":
        from tracer.interchange.circuit_tracer_pt import read_graph_pt

        return read_graph_pt(path)
    return tracer.load_graph(path)


class Progress:
    """One line on standard error that is written over, where a person is watching."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._width = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._say("")
        if self._width:
            sys.stderr.write("\r")

    def bytes(self, done: int, total: int, what: str) -> None:
        """Progress in bytes."""
        self._say(f"{what}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")

    def count(self, done: int, total: int, what: str) -> None:
        """Progress in steps; ``total`` is 0 where nobody knows."""
        self._say(f"{what}: {done:,} of {total:,}" if total else f"{what}: {done:,}")

    def _say(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(f"\r{text:{self._width}}")
            sys.stderr.flush()
            self._width = len(text)


def as_tracer_error(path: str, error: OSError) -> TracerError:
    """What a file that cannot be written comes to."""
    return TracerError(f"{path} cannot be written: {error.strerror or error}")
