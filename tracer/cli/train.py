"""``train`` and ``evaluate``: train transcoders for a model, and measure any set."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any, Final

from tracer.cli.options import (
    ExamplesFormatter,
    add_json,
    add_memory_option,
    add_model_options,
    open_model,
    print_json,
)
from tracer.progress import progress_bar, watched
from tracer.types import Progress

_SECONDS_PER_LINE: Final = 30
_CORPUS: Final = (
    'The corpus is a text file (documents separated by blank lines), JSONL with "text" in every\n'
    "line, Parquet with a column of texts, or a folder of such files. Text and JSONL can be\n"
    "compressed (.xz, .gz)."
)


def add(commands: Any) -> None:
    """Add the commands."""
    _add_train(commands)
    _add_evaluate(commands)


def _add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train transcoders for a model, from text",
        description="Train sparse replacements of a model's MLPs on a corpus and write them in the "
        "published layout,\nwith a report of how well they replace the MLPs on held-out text. "
        "Ctrl-C stops with a checkpoint;\nthe same command resumes.",
        epilog=f"""examples:
  python -m tracer train --model ./model --corpus books.jsonl.xz --output ./set
  python -m tracer train --model gpt2 --corpus texts/ --output ./clt --kind cross-layer --l0 100

{_CORPUS}
""",
        formatter_class=ExamplesFormatter,
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="a name listed by 'models', org/name[@revision] on the Hugging Face Hub, or the "
        "folder of a Hugging Face model",
    )
    parser.add_argument("--corpus", required=True, metavar="PATH", help="text file or folder")
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="folder of the set: new or empty"
    )
    shape = parser.add_argument_group("transcoders")
    shape.add_argument(
        "--kind",
        choices=("per-layer", "cross-layer"),
        default="per-layer",
        help="features write to their own layer, or to later layers too (default: per-layer)",
    )
    shape.add_argument(
        "--features", type=int, default=2048, help="features per layer (default: 2048)"
    )
    shape.add_argument(
        "--l0",
        type=float,
        default=60.0,
        help="active features per token, over all layers (default: 60)",
    )
    shape.add_argument(
        "--activation", choices=("jumprelu", "topk"), default="jumprelu", help="default: jumprelu"
    )
    shape.add_argument(
        "--skip", action="store_true", help="add a linear map from each MLP's input to its output"
    )
    shape.add_argument(
        "--read", default="mlp.hook_in", help="hook point to read (default: mlp.hook_in)"
    )
    shape.add_argument(
        "--write", default="mlp.hook_out", help="hook point to replace (default: mlp.hook_out)"
    )
    training = parser.add_argument_group("training")
    training.add_argument(
        "--tokens",
        type=int,
        default=10_000_000,
        help="tokens to train on; a smaller corpus is used several times (default: 10000000)",
    )
    training.add_argument(
        "--batch-tokens", type=int, default=2048, help="tokens per step (default: 2048)"
    )
    training.add_argument(
        "--rate", type=float, help="learning rate (default: depends on the width)"
    )
    training.add_argument(
        "--context", type=int, default=128, help="tokens per window (default: 128)"
    )
    training.add_argument(
        "--finetune-share",
        type=float,
        default=0.2,
        help="share of the tokens, at the end, that are trained end to end (default: 0.2)",
    )
    training.add_argument(
        "--validation",
        type=float,
        default=0.02,
        help="share of the text to hold out for the report (default: 0.02)",
    )
    training.add_argument("--seed", type=int, default=0, help="default: 0")
    training.add_argument(
        "--column",
        default="text",
        help="column of a Parquet file that has the texts (default: text)",
    )
    training.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    training.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="data type of matrix products; bfloat16 is used if the device is fast with it "
        "(default: float32)",
    )
    add_memory_option(parser)
    training.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=5.0,
        help="minutes between checkpoints (default: 5)",
    )
    add_json(parser)
    parser.set_defaults(run=_train)


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure how well a transcoder set replaces its model's MLPs, on text",
        description="Measure a set on a corpus: active and dead features, explained variance, and "
        "the next-token\nloss with MLPs replaced, compared with the model and with zero ablation.",
        epilog=f"""examples:
  python -m tracer evaluate --model gemma-2-2b --transcoders gemma-scope --corpus wiki.parquet
  python -m tracer evaluate --model ./model --transcoders ./set --corpus held-out.txt --json

{_CORPUS}
""",
        formatter_class=ExamplesFormatter,
    )
    parser.add_argument("--corpus", required=True, metavar="PATH", help="text file or folder")
    parser.add_argument(
        "--tokens",
        type=int,
        default=2**18,
        help="tokens for L0, dead features and explained variance (default: 262144)",
    )
    parser.add_argument(
        "--loss-tokens", type=int, default=2**15, help="tokens for losses (default: 32768)"
    )
    parser.add_argument("--context", type=int, default=128, help="tokens per window (default: 128)")
    parser.add_argument(
        "--column",
        default="text",
        help="column of a Parquet file that has the texts (default: text)",
    )
    add_json(parser)
    add_model_options(parser)
    parser.set_defaults(run=_evaluate)


def _train(options: argparse.Namespace) -> None:
    from tracer.training import train_transcoders

    with _TrainingProgress() as progress:
        report = train_transcoders(
            options.model,
            options.corpus,
            options.output,
            kind=options.kind,
            features=options.features,
            l0=options.l0,
            activation=options.activation,
            skip=options.skip,
            tokens=options.tokens,
            batch_tokens=options.batch_tokens,
            rate=options.rate,
            context=options.context,
            seed=options.seed,
            validation=options.validation,
            finetune_share=options.finetune_share,
            read=options.read,
            write=options.write,
            device=options.device,
            dtype=options.dtype,
            column=options.column,
            memory_limit=options.memory,
            checkpoint_minutes=options.checkpoint_minutes,
            progress=progress.count,
        )
    if options.json:
        print_json(report.to_dict() | {"folder": options.output})
    else:
        print(f"{report}\n\nwrote the set to {options.output}")


def _evaluate(options: argparse.Namespace) -> None:
    from tracer.training import evaluate_transcoders

    model = open_model(options)
    with progress_bar() as progress:
        report = evaluate_transcoders(
            model,
            options.corpus,
            tokens=options.tokens,
            loss_tokens=options.loss_tokens,
            context=options.context,
            column=options.column,
            progress=progress,
        )
    if options.json:
        print_json(report.to_dict())
    else:
        print(report)


class _TrainingProgress:
    """A progress callback that stops the training after the current step on Ctrl-C.

    The training then saves a checkpoint. A second Ctrl-C interrupts at once. Without a terminal, a
    line is written every 30 seconds instead of a bar.
    """

    def __init__(self) -> None:
        self._interrupted = False
        self._previous_handler: Any = None
        self._last_line = 0.0
        self._open = ExitStack()
        self._draw: Progress

    def __enter__(self) -> _TrainingProgress:
        self._draw = self._open.enter_context(progress_bar())
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
        self._open.close()

    def _interrupt(self, number: int, frame: object) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True

    def count(self, done: int, total: int, what: str) -> None:
        """Show the progress of the training; raise ``KeyboardInterrupt`` after Ctrl-C."""
        if self._interrupted:
            raise KeyboardInterrupt
        if watched():
            self._draw(done, total, what)
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_PER_LINE:
            self._last_line = now
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)
