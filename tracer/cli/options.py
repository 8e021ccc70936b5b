"""Options that several commands share, and opening what they name."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.errors import TracerError
from tracer.graph.graph import AttributionGraph
from tracer.progress import progress_bar, watched
from tracer.types import Prompt

if TYPE_CHECKING:
    from tracer.model.model import Model


class ExamplesFormatter(argparse.RawDescriptionHelpFormatter):
    """Help with the examples right after the usage line, their line breaks kept."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


def add_command(
    commands: Any, name: str, summary: str, description: str, examples: str
) -> argparse.ArgumentParser:
    """Add a command whose help shows what it does and examples above its options."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{description}\n\nexamples:\n{examples}",
        formatter_class=ExamplesFormatter,
    )
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add which model to open, with which transcoders, where and in which precision."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="NAME",
        help="atlas or novels (embedded), a name listed by 'models', org/name[@revision] on the "
        "Hugging Face Hub, or the folder of a Hugging Face model (default: the model of a listed "
        "set, else atlas)",
    )
    group.add_argument(
        "--transcoders",
        metavar="NAME",
        help="per-layer or cross-layer for an embedded model, a set listed by 'models', gemma or "
        "llama, org/name[/folder][@revision] on the Hub, or a folder (default: the model's first "
        "set)",
    )
    group.add_argument(
        "--device",
        default="auto",
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:N or mps. auto (the default) is the device in the environment "
        "variable CIRCUIT_DEVICE if it is set, else CUDA, else Apple MPS, else the CPU",
    )
    group.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="data type of the weights. bfloat16 halves the memory; each graph reports the "
        "rounding error (default: float32)",
    )
    group.add_argument(
        "--forward-dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="data type of the forward pass (default: float32); bfloat16 also needs --dtype "
        "bfloat16",
    )
    group.add_argument(
        "--tf32",
        action="store_true",
        help="allow TF32 for float32 matrix products on CUDA: faster, less precise",
    )


def add_memory_option(parser: argparse.ArgumentParser) -> None:
    """Add a limit in GB (10**9 bytes), which is parsed to bytes."""
    parser.add_argument(
        "--memory",
        type=gigabytes,
        metavar="GB",
        help="use at most this much memory (default: most of what is free)",
    )


def gigabytes(text: str) -> int:
    """Return a number of GB in bytes.

    >>> gigabytes("1.5")
    1500000000
    """
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of GB above 0")
    return int(size * 1e9)


def add_pruning_options(parser: argparse.ArgumentParser) -> None:
    """Add the two thresholds, and JSON."""
    parser.add_argument(
        "--node-threshold",
        type=float,
        default=0.8,
        metavar="SHARE",
        help="share of the influence that the kept nodes carry, 0 to 1 (default: 0.8)",
    )
    parser.add_argument(
        "--edge-threshold",
        type=float,
        default=0.98,
        metavar="SHARE",
        help="share of the influence through those nodes that the kept edges carry, 0 to 1 "
        "(default: 0.98)",
    )
    add_json(parser)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that every command has."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, ensure_ascii=False, indent=1))


def open_model(options: argparse.Namespace) -> Model:
    """Open what the model options name, after downloading it if necessary.

    Prints the chosen device to stderr if a person is watching.
    """
    import tracer

    on_disk = getattr(options, "offload", None) == "disk"
    lazy = {"lazy_decoders": True, "lazy_encoders": True} if on_disk else {}
    with progress_bar() as progress:
        model: Model = tracer.load(
            model_name(options),
            options.transcoders,
            options.device,
            options.dtype,
            forward_dtype=options.forward_dtype,
            tf32=options.tf32,
            progress=progress,
            **lazy,
        )
    if watched():
        print(f"device: {model.device_choice.describe(model.bridge.dtype)}", file=sys.stderr)
    return model


def model_name(options: argparse.Namespace) -> str:
    """Return the model to open: that of a published set, if only the set is given."""
    from tracer.catalog.published import listed_set

    if options.model is not None:
        return str(options.model)
    known = listed_set(options.transcoders) if options.transcoders else None
    return known[0] if known else "atlas"


def absolute_name(name: str) -> str:
    """Return a folder's absolute path, for a process elsewhere; any other name unchanged."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def prompt_of(options: argparse.Namespace) -> Prompt:
    """Return the prompt of a command, as a chat with one message if that is asked for."""
    if options.chat:
        return [{"role": "user", "content": options.prompt}]
    return str(options.prompt)


def add_chat_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that makes the prompt a chat."""
    parser.add_argument(
        "--chat",
        action="store_true",
        help="write the prompt as a user's message, by the chat template of the model's tokenizer",
    )


def open_graph(path: str) -> AttributionGraph:
    """Open a saved graph, or one that another tool published, by the suffix of its name."""
    import tracer

    suffix = Path(path).suffix
    if suffix == ".json":
        return tracer.graph_from_external(tracer.read_graph_json(path))
    if suffix == ".pt":
        from tracer.interchange.circuit_tracer_pt import read_graph_pt

        return read_graph_pt(path)
    return tracer.load_graph(path)


def write_error(path: str, error: OSError) -> TracerError:
    """Return the error for a file that cannot be written."""
    return TracerError(f"{path} cannot be written: {error.strerror or error}")
