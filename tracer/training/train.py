"""`train_transcoders`: from a model and a text to a transcoder set in the published layout."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from tracer.errors import CorpusError, TrainingError
from tracer.files import atomic_write
from tracer.model.failures import as_tracer_errors
from tracer.model.model import DTYPES, Model
from tracer.training.checkpoint import Checkpoint, damaged, load_checkpoint, save_checkpoint
from tracer.training.corpus_source import CorpusSource
from tracer.training.evaluate import evaluate_windows
from tracer.training.finetune import finetune
from tracer.training.memory import n_parameters, plan_memory
from tracer.training.output_folder import OutputFolder
from tracer.training.precision import chosen_dtype
from tracer.training.recipe import (
    ActivationName,
    Kind,
    Recipe,
    check_recipe,
    default_rate,
    top_k,
)
from tracer.training.report import TrainingReport, model_card
from tracer.training.subject import open_model, without_transcoders
from tracer.training.texts import Texts, open_texts
from tracer.training.token_store import TokenStore, split_windows, store_tokens
from tracer.training.trainer import StepReport, Trainer
from tracer.transcoders.load import load_transcoders
from tracer.transcoders.save import save_transcoders
from tracer.transcoders.transcoder import TranscoderSet
from tracer.types import Progress

VERSION: Final = 1
"""Version of the training algorithm; an unfinished training of another version is refused."""
_L0_FIRST: Final = 4.0
"""Training starts with this many times the final number of active features."""
_CALIBRATION_TOKENS: Final = 2**15
_LEAST_SHARD: Final = 2
"""Batches."""


def train_transcoders(
    model: Model | str,
    corpus: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    kind: Kind = "per-layer",
    features: int = 2048,
    l0: float = 60.0,
    activation: ActivationName = "jumprelu",
    skip: bool = False,
    tokens: int = 10_000_000,
    batch_tokens: int = 2048,
    rate: float | None = None,
    context: int = 128,
    seed: int = 0,
    validation: float = 0.02,
    finetune_share: float = 0.2,
    read: str = "mlp.hook_in",
    write: str = "mlp.hook_out",
    device: str = "auto",
    dtype: str = "float32",
    column: str = "text",
    memory_limit: int | None = None,
    checkpoint_minutes: float = 5.0,
    progress: Progress | None = None,
) -> TrainingReport:
    """Train transcoders for ``model`` on ``corpus``; write the set, with a report, to ``folder``.

    ``model`` is an opened model (its transcoder set is ignored) or a name that :func:`tracer.load`
    takes. ``corpus`` is a text, JSONL or Parquet file, or a folder of them (see
    :mod:`tracer.indexing.corpus`; ``column`` has the texts of a Parquet file). It is cut into
    windows of ``context`` tokens; the share ``validation`` of them is held out for the report. If
    ``tokens`` exceeds the rest, training makes several passes, each in a new order.

    ``features`` is the number per layer, ``l0`` the number active per token over all layers: for
    JumpReLU on average, for TopK each layer gets its share as ``k``. ``skip`` adds a linear map
    from each MLP's input to its output. The last ``finetune_share`` of the tokens are trained end
    to end: the model runs with every MLP replaced, and its next-token distribution is pulled
    towards the model's own. ``rate`` is the learning rate (None: by the model's width). ``read``
    and ``write`` are the hook points of the published ``config.yaml``. ``dtype`` "bfloat16"
    multiplies in bfloat16 if the device is fast with it; the model keeps the type it was opened in.

    ``memory_limit`` bounds the memory of the training in bytes, including the buffer of activations
    (None: the free memory, with a buffer of at most 512 MiB). ``<folder>.partial`` has the tokens
    and, every ``checkpoint_minutes``, a checkpoint. A training that was stopped resumes when it is
    started again with the same options, and gives the same bits on the same number of CPU threads.
    ``progress`` counts tokens; if it raises, for example :class:`tracer.errors.Cancelled`, the
    training saves a checkpoint and stops.

    Returns the report, which is also ``report.json`` and ``README.md`` in the folder.

    Raises :class:`tracer.errors.TrainingError` for options out of range, a folder that is not
    empty, a full disk, or an unfinished training with other options;
    :class:`tracer.errors.CorpusError` for a corpus that cannot be used or is smaller than a batch;
    :class:`tracer.errors.ModelError` for a model that cannot be opened or traced; and
    :class:`tracer.errors.MemoryLimitError`, with numbers, if training does not fit in memory.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> text = "The capital of the state containing Dallas is Austin\\n\\n" * 80
    >>> _ = (folder / "texts.txt").write_text(text)
    >>> report = train_transcoders(
    ...     "atlas", folder / "texts.txt", folder / "set", features=16, l0=10, tokens=1000,
    ...     batch_tokens=64, device="cpu",
    ... )
    >>> report.layers[0].l0 < report.l0
    True
    """
    for name, value, least in (("checkpoint_minutes", checkpoint_minutes, 0), ("seed", seed, 0)):
        if value < least:
            raise TrainingError(f"{name} is {value}: give at least {least}")
    if not 0 < validation < 1:
        raise TrainingError(f"validation is {validation}: give a share between 0 and 1")
    if dtype not in DTYPES:
        raise TrainingError(f"dtype is {dtype!r}: expected one of {', '.join(DTYPES)}")
    if isinstance(model, str):
        model = open_model(model, device, read, write, progress)
    else:
        model = without_transcoders(model, read, write)
    recipe = Recipe(
        kind=kind,
        features=features,
        l0=l0,
        activation=activation,
        skip=skip,
        tokens=tokens,
        batch_tokens=batch_tokens,
        rate=default_rate(model.bridge.d_model) if rate is None else rate,
        l0_first=max(l0, min(_L0_FIRST * l0, features * model.n_layers / 2)),
        finetune_share=finetune_share,
        seed=seed,
    )
    check_recipe(recipe, model.n_layers)
    _check_model(model, recipe, context)
    texts = open_texts(corpus, column)
    advice = "lower features or batch_tokens, or set memory_limit"
    with (
        OutputFolder(folder) as output,
        as_tracer_errors("training transcoders", model.device, advice),
    ):
        run = _Run(
            model,
            recipe,
            texts,
            output,
            _Options(
                min(context, model.bridge.n_context), validation, read, write, dtype, memory_limit
            ),
            checkpoint_minutes,
            progress or _no_progress,
        )
        run.train()
        return run.finish()


def _no_progress(done: int, total: int, what: str) -> None:
    pass


def _check_model(model: Model, recipe: Recipe, context: int) -> None:
    """Raise if the model cannot be trained on, before anything long starts."""
    least = model.first_position + 2
    if context < least:
        raise TrainingError(f"context is {context}: give at least {least} tokens")
    if recipe.finetune_tokens and model.bridge.dtype != torch.float32:
        raise TrainingError(
            f"{model.source.name} was opened in bfloat16, and training end to end needs float32: "
            "open it in float32, or set finetune_share to 0"
        )
    _ = model.blocks  # raises for an architecture that cannot be traced
    layers = range(model.n_layers)
    hooks = [hook(layer) for hook in (model.read_hook, model.write_hook) for layer in layers]
    model.bridge.capture_inside(torch.zeros(1, 2, dtype=torch.int64, device=model.device), hooks)


@dataclass(frozen=True)
class _Options:
    """Options that determine the result and are not part of the recipe."""

    context: int
    validation: float
    read: str
    write: str
    dtype: str
    memory_limit: int | None


class _Run:
    """One training, from tokens on disk to a published folder."""

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        texts: Texts,
        output: OutputFolder,
        options: _Options,
        checkpoint_minutes: float,
        progress: Progress,
    ) -> None:
        self.model, self.recipe, self.output, self.options = model, recipe, output, options
        self.checkpoint_seconds, self.progress = 60 * checkpoint_minutes, progress
        self.identity = _identity(model, recipe, texts, options)
        checkpoint = load_checkpoint(output.work, self.identity)
        with output.disk_errors():
            self.store = self._tokens(texts)
        training, self.held_out = split_windows(self.store, options.validation, recipe.seed)
        self.plan = checkpoint.values["plan"] if checkpoint else self._plan(training)
        self.seconds = float(checkpoint.values["seconds"]) if checkpoint else 0.0
        self.source = self._source(training, texts)
        self.trainer = Trainer(
            self.source, recipe, model.device, getattr(torch, self.plan["dtype"])
        )
        if checkpoint is not None:
            try:
                self.trainer.restore(checkpoint.values, checkpoint.tensors)
            except (KeyError, RuntimeError, ValueError, TypeError) as error:
                raise damaged(output.work, error) from error

    def _tokens(self, texts: Texts) -> TokenStore:
        recipe, options = self.recipe, self.options
        # More would not be used; a corpus with less is passed again.
        least = max(recipe.tokens, recipe.batch_tokens) + options.context
        limit = int(np.ceil(least / (1 - options.validation)))
        names = ("version", "model", "corpus", "context", "tokens", "validation")
        identity = {name: self.identity[name] for name in names}
        return store_tokens(
            self.model, texts, options.context, limit, self.output.work, identity, self.progress
        )

    def _plan(self, windows: NDArray[np.int64]) -> dict[str, Any]:
        """Decide what depends on this machine; a resumed training keeps to it."""
        model, recipe, options = self.model, self.recipe, self.options
        dtype = chosen_dtype(options.dtype, model.device)
        memory = plan_memory(model, recipe, options.context, dtype, options.memory_limit)
        size = 4 * n_parameters(recipe, model.n_layers, model.bridge.d_model)
        self.output.check_room(7 * size)  # two checkpoints of three copies, and the set
        # No shard holds more than the text, or more than is trained on.
        text = int((self.store.lengths[windows] - model.first_position).sum())
        useful = recipe.reconstruction_tokens + _LEAST_SHARD * recipe.batch_tokens
        return {
            "dtype": str(dtype).removeprefix("torch."),
            "shard_tokens": min(memory.buffer // memory.token, text, useful),
            "finetune_tokens": memory.finetune_tokens,
        }

    def _source(self, windows: NDArray[np.int64], texts: Texts) -> CorpusSource:
        recipe = self.recipe
        source = CorpusSource(
            self.model,
            self.store,
            windows,
            self.plan["shard_tokens"],
            recipe.batch_tokens,
            recipe.seed,
            getattr(torch, self.plan["dtype"]),
            self._collecting,
        )
        available = source.n_tokens(windows)
        if available < recipe.batch_tokens:
            raise CorpusError(
                f"{texts.path} has {available:,} tokens to train on, fewer than a batch "
                f"of {recipe.batch_tokens:,}: give more text or lower batch_tokens"
            )
        return source

    def train(self) -> None:
        """Run both phases, with checkpoints at intervals and when ``progress`` raises."""
        self._started = self._saved = time.monotonic()
        self._first_tokens = self.trainer.tokens
        try:
            self.trainer.reconstruct(self._between)
            if self.recipe.finetune_tokens:
                finetune(self.trainer, self.source, self._between, self.plan["finetune_tokens"])
        except BaseException:
            if self._is_between_steps:
                self._save()
            raise
        self._save()

    _is_between_steps = False
    """Whether ``progress`` is running, when the trainer's state is that of a finished step."""

    def _between(self, report: StepReport) -> None:
        elapsed = time.monotonic() - self._started
        speed = (self.trainer.tokens - self._first_tokens) / max(elapsed, 1e-9)
        self._tell(self.trainer.tokens, f"training: {report}, {speed:,.0f} tokens/s; tokens")
        if time.monotonic() - self._saved >= self.checkpoint_seconds:
            self._save()

    def _collecting(self, done: int, total: int, what: str) -> None:
        if hasattr(self, "_started"):
            self._tell(self.trainer.tokens, f"{what} ({done:,} of {total:,}); tokens")

    def _tell(self, tokens: int, what: str) -> None:
        self._is_between_steps = True
        self.progress(min(tokens, self.recipe.tokens), self.recipe.tokens, what)
        self._is_between_steps = False

    def _save(self) -> None:
        now = time.monotonic()
        values, tensors = self.trainer.state()
        values |= {"plan": self.plan, "seconds": self.seconds + now - self._started}
        with self.output.disk_errors():
            save_checkpoint(self.output.work, Checkpoint(self.identity, values, tensors))
        self._saved = time.monotonic()

    def finish(self) -> TrainingReport:
        """Calibrate, write the set, measure it, and move it to its place."""
        model, output, trainer = self.model, self.output, self.trainer
        seconds = self.seconds + time.monotonic() - self._started
        after = self.source.bounds(trainer.shard)[1]
        examples = self.source.examples(after, _CALIBRATION_TOKENS)
        dictionary = trainer.dictionary
        dictionary.calibrate(dictionary.normalized(examples).inputs, self.recipe.l0)
        dictionary.k = top_k(self.recipe, dictionary.n_layers)
        name = _published_name(model)
        points = model.transcoders.read_point, model.transcoders.write_point
        finished = output.work / "set"
        with output.disk_errors():
            shutil.rmtree(finished, ignore_errors=True)
            save_transcoders(
                dictionary.to_transcoders(*points, scan=output.folder.name, model_name=name),
                finished,
            )
        trained = load_transcoders(finished, model.n_layers, model.bridge.d_model, model.device)
        report = self._report(trained, seconds)
        with output.disk_errors():
            atomic_write(finished / "report.json", json.dumps(report.to_dict(), indent=1))
            card = model_card(report, self.recipe.kind, *(point.value for point in points))
            atomic_write(finished / "README.md", card)
        output.publish(finished)
        return report

    def _report(self, trained: TranscoderSet, seconds: float) -> TrainingReport:
        measured = evaluate_windows(
            Model(self.model.source, self.model.bridge, trained),
            self.store,
            self.held_out,
            progress=self.progress,
        )
        training = {
            name: self.identity[name] for name in self.identity if name not in ("version", "model")
        }
        training |= {
            "device": self.model.device.type,
            "multiplied_in": self.plan["dtype"],
            "tokens_trained": self.trainer.tokens,
            "corpus_tokens": self.source.n_tokens(self.source.windows),
            "minutes": round(seconds / 60, 1),
        }
        return replace(
            measured,
            model=_published_name(self.model),
            transcoders=self.output.folder.name,
            training=training,
        )


def _published_name(model: Model) -> str:
    """Return the name of the model in a published set, without local paths."""
    name = model.source.name
    return Path(name).expanduser().resolve().name if Path(name).expanduser().is_dir() else name


def _identity(model: Model, recipe: Recipe, texts: Texts, options: _Options) -> dict[str, Any]:
    """Return everything that determines the result, under the names of the options."""
    return {
        "version": VERSION,
        "model": f"{_published_name(model)} ({model.source.fingerprint[:12]})",
        "corpus": texts.digest(),
        **asdict(recipe),
        **asdict(options),
        "device": model.device.type,
    }
