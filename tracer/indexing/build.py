"""`build_index`: stream a corpus through a model and record what each transcoder feature does."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from tracer.errors import CorpusError
from tracer.indexing.checkpoint import (
    CHECKPOINT_VERSION,
    BuildState,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
)
from tracer.indexing.corpus import Corpus, open_corpus
from tracer.indexing.gather import Arrays, Gatherer
from tracer.indexing.labels import LabelRule
from tracer.indexing.logit_effects import promoted_and_suppressed
from tracer.indexing.memory import N_PREFIXES, check_memory, index_memory
from tracer.indexing.output_folder import OutputFolder
from tracer.indexing.plan import MAX_TOKENS, Planner, Shard
from tracer.indexing.prefixes import Hashes, PrefixSet
from tracer.indexing.records import CorpusTokens, LayerWriter, Shown, write_json_gz
from tracer.indexing.shards import ShardSetup, ShardWorkers, model_identity, run_shards
from tracer.indexing.slots import REACH
from tracer.indexing.statistics import N_STRONGEST
from tracer.indexing.windows import Position, WindowReader
from tracer.model.failures import as_tracer_errors
from tracer.model.model import Model
from tracer.types import Progress

VERSION: Final = 1
"""Version of what an index contains; an unfinished build of another version is not resumed."""


@dataclass(frozen=True)
class IndexSummary:
    """The contents of a finished index, in numbers."""

    features: int
    alive: int
    """Features that fire at least once."""
    labelled: int
    tokens: int
    """Tokens that were counted: whose prefix was new."""
    documents: int
    skipped: int
    """Documents left out because the tokenizer does not know some of their words."""

    def __str__(self) -> str:
        skipped = f" ({self.skipped:,} left out: unknown words)" if self.skipped else ""
        return (
            f"{self.features:,} features, {self.alive:,} of them fire, {self.labelled:,} are "
            f"labelled; {self.tokens:,} tokens of {self.documents:,} documents{skipped}"
        )


def build_index(
    model: Model,
    corpus: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    context: int = 128,
    batch_tokens: int = 2048,
    column: str = "text",
    label: LabelRule | None = LabelRule(),  # noqa: B008  (frozen)
    examples: int = N_STRONGEST,
    around: int = REACH,
    limit_tokens: int | None = None,
    checkpoint_tokens: int | None = 2**20,
    shard_tokens: int = 2**20,
    workers: ShardWorkers | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> IndexSummary:
    """Build the feature index of the model's transcoder set from a corpus, as ``folder``.

    ``folder`` becomes the ``features`` folder of the published layout: name it ``features``, inside
    the folder of the transcoder set, for it to be found. It appears when it is complete; an older
    index there is replaced only then. ``corpus`` is a file of documents
    (:mod:`tracer.indexing.corpus`), a Parquet file with its texts in ``column``. Documents are cut
    into windows of ``context`` tokens, or fewer if the model reads fewer; ``batch_tokens`` of them
    run at a time. Reading stops after ``limit_tokens``. With ``label=None`` no feature is labelled.
    Of each feature, at most ``examples`` strongest examples are written, and a third as many from
    above and below its median, with ``around`` tokens on either side; fewer make a smaller index.

    While the build runs it keeps ``<folder>.partial`` next to the folder, with a checkpoint every
    ``checkpoint_tokens`` (None: only at the end of the corpus). A build that was stopped resumes
    when it is started again with the same model, corpus and options, and ends with the same bytes.
    ``progress`` counts tokens, then features; it may raise :class:`tracer.errors.Cancelled`.

    ``workers`` run the batches in other processes (:class:`tracer.indexing.ray_shards.RayShards`),
    ``shard_tokens`` at a time; this process reads the corpus and merges. The index has the bytes
    that one process writes, if both use the CPU and the same number of cores. A build can be
    stopped with workers and resumed without, and the reverse.

    Raises :class:`CorpusError` if the corpus or an option cannot be used,
    :class:`FeatureIndexError` if the folder has other files than an index, cannot be written, or an
    unfinished index of another build is next to it, and :class:`MemoryLimitError` if the statistics
    would not fit, before anything runs. With workers, :class:`TracerError` if they are lost time
    and again.

    >>> import pathlib, tempfile, tracer
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> corpus = folder / "corpus.txt"
    >>> _ = corpus.write_text("The capital of Texas is Austin\\n\\nThe capital of France is Paris")
    >>> summary = build_index(tracer.load("atlas", device="cpu"), corpus, folder / "features")
    >>> summary.documents, summary.tokens, summary.alive > 0
    (2, 9, True)
    >>> sorted(path.name for path in (folder / "features").iterdir())[:2]
    ['index.json.gz', 'labels.json.gz']
    """
    for name, value, least in (
        ("context", context, model.first_position + 1),
        ("batch_tokens", batch_tokens, 1),
        ("limit_tokens", limit_tokens, 1),
        ("checkpoint_tokens", checkpoint_tokens, 1),
        ("examples", examples, 1),
        ("around", around, 0),
        ("shard_tokens", shard_tokens, 1),
    ):
        if value is not None and value < least:
            raise CorpusError(f"{name} is {value}: it must be at least {least}")
    source = open_corpus(corpus, column)
    with OutputFolder(folder) as output:
        build = _Build(
            model,
            source,
            output,
            min(context, model.bridge.n_context),
            batch_tokens,
            min(limit_tokens or MAX_TOKENS, MAX_TOKENS),
            shard_tokens,
            memory_limit,
        )
        advice = "lower batch_tokens or memory_limit, or use another device"
        with build.log, as_tracer_errors("indexing a corpus", model.device, advice):
            build.read(checkpoint_tokens, workers, progress or _no_progress)
            with output.disk_errors():
                return build.write(label, Shown(examples, around), progress or _no_progress)


def _no_progress(done: int, total: int, what: str) -> None:
    pass


class _Build:
    """One build: the statistics, and how much of the corpus they cover so far."""

    def __init__(
        self,
        model: Model,
        corpus: Corpus,
        output: OutputFolder,
        context: int,
        batch_tokens: int,
        limit: int,
        shard_tokens: int,
        memory_limit: int | None,
    ) -> None:
        self._model, self._output, self._corpus = model, output, corpus
        self._context, self._limit = context, limit
        self._identity = _identity(model, corpus, context, batch_tokens, limit, shard_tokens)
        self._tags, self._groups = corpus.tags()
        needed = index_memory(model, context, batch_tokens, len(self._tags))
        check_memory(needed, model, memory_limit)
        effects = [promoted_and_suppressed(model, layer) for layer in range(model.n_layers)]
        self._suppressed = [suppressed for _, suppressed in effects]
        promoted = [tokens for tokens, _ in effects]
        self._gatherer = Gatherer(model, promoted, len(self._tags), context)
        state, hashes = self._resumed()
        reader = WindowReader(model, corpus, context, self._tags, limit, state.position)
        prefixes = PrefixSet(N_PREFIXES, hashes)
        self._plan = Planner(model, reader, output, batch_tokens, shard_tokens, state, prefixes)
        self._saved = state.position.tokens
        self.log = self._plan.log

    def _resumed(self) -> tuple[BuildState, Hashes | None]:
        """Return the state and prefixes of the checkpoint, its statistics filled in; or a start."""
        checkpoint = load_checkpoint(self._output.work, self._identity)
        if checkpoint is None:
            start = BuildState(Position(), 0, 0, 0, 0, (0,) * len(self._tags), ends_shard=True)
            return start, None
        state, file = checkpoint
        hashes = load_tensors(self._output.work, file, self._gatherer.tensors())
        return state, hashes.numpy().view(np.uint64)

    def read(
        self, checkpoint_tokens: int | None, workers: ShardWorkers | None, progress: Progress
    ) -> None:
        """Run the rest of the corpus."""
        self._read_here(checkpoint_tokens, workers is not None, progress)
        if workers is not None:
            self._read_elsewhere(checkpoint_tokens, workers, progress)
        self._gatherer.end_shard()
        position = self._plan.reader.position
        if position.tokens > self._saved:
            self._save(self._plan.state(), self._plan.prefixes())
        if not self._plan.n_counted:
            reason = ""
            if position.unknown:
                reason = f": {position.unknown:,} documents have unknown words"
            self._output.discard_work()
            raise CorpusError(
                f"{self._corpus.path} has no document that {self._model.source.name} can read"
                f"{reason}; give documents with at least one word of its vocabulary"
            )

    def _read_here(
        self, checkpoint_tokens: int | None, only_this_shard: bool, progress: Progress
    ) -> None:
        """Run the rest of the corpus in this process, or of a shard that was begun."""
        if only_this_shard and self._plan.at_shard_end:
            return
        position = self._plan.reader.position
        for batch in self._plan.batches():
            if batch is not None:
                self._gatherer.add(batch)
            if self._plan.at_shard_end:
                self._gatherer.end_shard()
            if checkpoint_tokens is not None and position.tokens - self._saved >= checkpoint_tokens:
                self._save(self._plan.state(), self._plan.prefixes())
            progress(position.tokens, self._estimate(position.tokens), "reading")
            if only_this_shard and self._plan.at_shard_end:
                return

    def _read_elsewhere(
        self, checkpoint_tokens: int | None, workers: ShardWorkers, progress: Progress
    ) -> None:
        """Run the rest of the corpus on workers, and merge their shards."""
        merged = self._plan.reader.position.tokens

        def merge(shard: Shard, arrays: Arrays) -> None:
            nonlocal merged
            self._gatherer.merge(arrays)
            merged = shard.state.position.tokens
            if shard.prefixes is not None and merged - self._saved >= (checkpoint_tokens or 0):
                self._save(shard.state, shard.prefixes)

        def report(tokens: int) -> None:
            progress(merged + tokens, self._estimate(merged + tokens), "reading")

        promoted = tuple(layer.promoted.cpu().numpy() for layer in self._gatherer.layers)
        setup = ShardSetup(model_identity(self._model), promoted, len(self._tags), self._context)
        run_shards(self._plan.shards(checkpoint_tokens is not None), workers, setup, merge, report)

    def _estimate(self, tokens: int) -> int:
        """Return about how many tokens the corpus has; at least ``tokens``."""
        position = self._plan.reader.position
        estimate = int(position.tokens / max(position.share, 1e-9))
        return max(tokens, min(estimate, self._limit))

    def _save(self, state: BuildState, prefixes: Hashes) -> None:
        hashes = torch.from_numpy(prefixes.view(np.int64))
        with self._output.disk_errors():
            self.log.flush()
            tensors = {**self._gatherer.tensors(), "prefixes": hashes}
            save_checkpoint(self._output.work, self._identity, state, tensors)
        self._saved = state.position.tokens

    def write(self, rule: LabelRule | None, shown: Shown, progress: Progress) -> IndexSummary:
        """Write the index next to its folder, then move it there."""
        out = self._output.work / "finished"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        corpus = CorpusTokens(
            *self.log.read(),
            self._plan.n_counted,
            self.log.read_sources(),
            self._gatherer.occurrences.cpu().numpy(),
        )
        token_names: dict[int, str] = {}
        tags = list(self._tags), self._groups, self._plan.tag_totals
        total, done = sum(layer.n_features for layer in self._model.transcoders.layers), 0
        index, labels, alive = [], {}, 0
        for layer, statistics in enumerate(self._gatherer.layers):
            writer = LayerWriter(
                self._model, layer, statistics, self._suppressed[layer], corpus, token_names, shown
            )
            by_feature, recalls = writer.find_labels(rule, *tags) if rule is not None else ({}, {})
            offsets = [0]
            with (out / f"layer_{layer}.bin").open("wb") as file:
                for record in writer.records(by_feature):
                    offsets.append(offsets[-1] + file.write(record))
                    done += 1
                    if done % 256 == 0 or done == total:
                        progress(done, total, f"writing layer {layer}")
            index.append({"filename": f"layer_{layer}.bin", "offsets": offsets})
            labels[str(layer)] = {
                str(feature): {"label": text, "precision": round(precision, 3)}
                | ({"recall": round(recalls[feature], 3)} if feature in recalls else {})
                for feature, (text, precision) in sorted(by_feature.items())
            }
            alive += writer.n_alive
        write_json_gz(out / "index.json.gz", index)
        write_json_gz(out / "labels.json.gz", labels)
        self._output.publish(out)
        return IndexSummary(
            features=total,
            alive=alive,
            labelled=sum(map(len, labels.values())),
            tokens=self._plan.n_counted,
            documents=self._plan.reader.position.documents,
            skipped=self._plan.reader.position.unknown,
        )


def _identity(
    model: Model, corpus: Corpus, context: int, batch_tokens: int, limit: int, shard_tokens: int
) -> dict[str, Any]:
    """Return everything that shapes the statistics, by names that messages can use."""
    return {
        "version": [VERSION, CHECKPOINT_VERSION],
        "model": [model.source.name, model.source.fingerprint],
        "transcoder set": [
            model.transcoders.scan,
            [layer.n_features for layer in model.transcoders.layers],
        ],
        "corpus": corpus.digest(),
        "context": context,
        "batch_tokens": batch_tokens,
        "limit_tokens": limit,
        "shard_tokens": shard_tokens,
        "data type": str(model.bridge.dtype),
        "device": model.device.type,
    }
