"""`build_index`: stream a corpus through a model and record what each transcoder feature does."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from tracer.errors import CorpusError, ModelError
from tracer.indexing.checkpoint import (
    CHECKPOINT_VERSION,
    BuildState,
    TokenLog,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
)
from tracer.indexing.corpus import Corpus, open_corpus
from tracer.indexing.labels import LabelRule
from tracer.indexing.logit_effects import promoted_and_suppressed
from tracer.indexing.memory import N_PREFIXES, check_memory, index_memory
from tracer.indexing.output_folder import OutputFolder
from tracer.indexing.prefixes import PrefixSet, prefix_hashes
from tracer.indexing.records import CorpusTokens, LayerWriter, Shown, write_json_gz
from tracer.indexing.slots import REACH
from tracer.indexing.statistics import N_STRONGEST, BatchTokens, LayerStatistics, window_width
from tracer.indexing.windows import Position, Window, WindowReader, padded
from tracer.model.failures import as_tracer_errors
from tracer.model.model import Model
from tracer.types import Progress

VERSION: Final = 1
"""Version of what an index contains; an unfinished build of another version is not resumed."""
_MAX_TOKENS: Final = 2**31 - 2**20
"""Offsets in the corpus are stored in 32 bits."""


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

    Raises :class:`CorpusError` if the corpus or an option cannot be used,
    :class:`FeatureIndexError` if the folder has other files than an index, cannot be written, or an
    unfinished index of another build is next to it, and :class:`MemoryLimitError` if the statistics
    would not fit, before anything runs.

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
            min(limit_tokens or _MAX_TOKENS, _MAX_TOKENS),
            memory_limit,
        )
        advice = "lower batch_tokens or memory_limit, or use another device"
        with build.log, as_tracer_errors("indexing a corpus", model.device, advice):
            build.read(checkpoint_tokens, progress or _no_progress)
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
        memory_limit: int | None,
    ) -> None:
        self._model, self._output, self._corpus = model, output, corpus
        self._batch_tokens, self._limit = batch_tokens, limit
        self._identity = _identity(model, corpus, context, batch_tokens, limit)
        self._tags, self._groups = corpus.tags()
        needed = index_memory(model, context, batch_tokens, len(self._tags))
        check_memory(needed, model, memory_limit)
        # Apple GPUs lack some of the operations that the statistics need.
        self._device = torch.device("cpu") if model.device.type == "mps" else model.device
        effects = [promoted_and_suppressed(model, layer) for layer in range(model.n_layers)]
        self._occurrences = torch.zeros(3, model.vocab_size, dtype=torch.int64)
        self._suppressed = [suppressed for _, suppressed in effects]
        self._layers = [
            LayerStatistics(
                layer,
                promoted.to(self._device),
                len(self._tags),
                window_width(context),
                self._device,
            )
            for layer, (promoted, _) in enumerate(effects)
        ]
        state, prefixes = self._resumed()
        self._prefixes = PrefixSet(N_PREFIXES, prefixes)
        self._n_counted = state.n_counted
        self._tag_totals = np.array(state.tag_totals, np.int64)
        self._reader = WindowReader(model, corpus, context, self._tags, limit, state.position)
        with output.disk_errors():
            self.log = TokenLog(output.work, state.n_tokens, state.n_windows, state.n_source_bytes)

    def _resumed(self) -> tuple[BuildState, np.ndarray | None]:
        """Return the state and prefixes of the checkpoint, its statistics filled in; or a start."""
        checkpoint = load_checkpoint(self._output.work, self._identity)
        if checkpoint is None:
            return BuildState(Position(), 0, 0, 0, 0, (0,) * len(self._tags)), None
        state, file = checkpoint
        hashes = load_tensors(self._output.work, file, self._tensors())
        return state, hashes.numpy().view(np.uint64)

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{number}.{name}": tensor
            for number, layer in enumerate(self._layers)
            for name, tensor in layer.tensors()
        } | {"occurrences": self._occurrences}

    def read(self, checkpoint_tokens: int | None, progress: Progress) -> None:
        """Run the rest of the corpus."""
        position = self._reader.position
        saved = position.tokens
        while batch := self._reader.batch(self._batch_tokens):
            self._add(batch)
            if checkpoint_tokens is not None and position.tokens - saved >= checkpoint_tokens:
                self._save()
                saved = position.tokens
            estimate = int(position.tokens / max(position.share, 1e-9))
            total = max(position.tokens, min(estimate, self._limit))
            progress(position.tokens, total, "reading")
        if position.tokens > saved:
            self._save()
        if not self._n_counted:
            reason = ""
            if position.unknown:
                reason = f": {position.unknown:,} documents have unknown words"
            self._output.discard_work()
            raise CorpusError(
                f"{self._corpus.path} has no document that {self._model.source.name} can read"
                f"{reason}; give documents with at least one word of its vocabulary"
            )

    def _save(self) -> None:
        state = BuildState(
            self._reader.position,
            self.log.n_tokens,
            self.log.n_windows,
            self.log.n_source_bytes,
            self._n_counted,
            tuple(self._tag_totals.tolist()),
        )
        prefixes = torch.from_numpy(self._prefixes.hashes().view(np.int64))
        with self._output.disk_errors():
            self.log.flush()
            tensors = {**self._tensors(), "prefixes": prefixes}
            save_checkpoint(self._output.work, self._identity, state, tensors)

    @torch.no_grad()
    def _add(self, windows: list[Window]) -> None:
        """Run a batch and add it to the statistics. Windows without a new prefix are left out."""
        new = self._new_prefixes(windows)
        windows = [window for window, is_new in zip(windows, new, strict=True) if is_new.any()]
        if not windows:
            return
        counted = np.concatenate([is_new for is_new in new if is_new.any()])
        ids, real = padded(windows)
        device = self._model.device
        mask = torch.from_numpy(real).to(device)
        names = [self._model.read_hook(layer) for layer in range(self._model.n_layers)]
        logits, inputs = self._model.bridge.capture_batch(torch.from_numpy(ids).to(device), names)
        best = logits.max(-1)
        del logits
        if not torch.isfinite(best.values[mask]).all():
            raise ModelError(
                f"{self._model.source.name} produces NaN or Inf logits: its weights are damaged, "
                "or the data type is too narrow; try dtype float32"
            )
        tokens = self._batch(windows, ids[real], best.indices[mask], counted)
        self._count_tokens(windows, ids[real], best.indices[mask].cpu().numpy(), counted)
        for layer, (name, statistics) in enumerate(zip(names, self._layers, strict=True)):
            active = self._model.transcoders[layer].activations(inputs.pop(name)[mask])
            statistics.add(active.to(self._device), tokens)
        with self._output.disk_errors():
            lengths = (len(window.ids) for window in windows)
            sources = (window.source for window in windows)
            self.log.append(ids[real].astype(np.int32), lengths, sources)
        self._n_counted += int(counted.sum())

    def _count_tokens(
        self, windows: list[Window], ids: np.ndarray, predicted: np.ndarray, counted: np.ndarray
    ) -> None:
        """Count how often each token occurs, in even and odd windows, and is predicted."""
        lengths = [len(window.ids) for window in windows]
        odd = ((self.log.n_windows + np.arange(len(windows))) % 2).repeat(lengths)
        vocabulary = self._occurrences.shape[1]
        places = np.concatenate([odd * vocabulary + ids, 2 * vocabulary + predicted])
        rows = torch.from_numpy(places[np.tile(counted, 2)])
        self._occurrences.view(-1).index_add_(0, rows, torch.ones_like(rows))

    def _new_prefixes(self, windows: list[Window]) -> list[np.ndarray]:
        """Return, by window and token, whether the prefix that ends there is new.

        Positions that have no features do not count.
        """
        ids, real = padded(windows)
        has_features = real.copy()
        has_features[:, : self._model.first_position] = False
        new = np.zeros(real.shape, bool)
        new[has_features] = self._prefixes.add(prefix_hashes(ids)[has_features])
        return [row[: len(window.ids)] for row, window in zip(new, windows, strict=True)]

    def _batch(
        self, windows: list[Window], ids: np.ndarray, predicted: Tensor, counted: np.ndarray
    ) -> BatchTokens:
        lengths = np.array([len(window.ids) for window in windows])
        stops = lengths.cumsum()
        starts = stops - lengths
        pairs = [
            (start + position, number)
            for window, start in zip(windows, starts.tolist(), strict=True)
            for position, tags in enumerate(window.tags or ())
            if tags and counted[start + position]
            for number in tags
        ]
        rows, numbers = np.array(pairs, np.int64).reshape(-1, 2).T
        self._tag_totals += np.bincount(numbers, minlength=len(self._tag_totals))

        def to_device(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

        positions = np.arange(len(ids)) - starts.repeat(lengths)
        return BatchTokens(
            first=self.log.n_tokens,
            tokens=to_device(ids),
            predicted=predicted.to(self._device),
            starts=to_device(starts.repeat(lengths)),
            stops=to_device(stops.repeat(lengths)),
            has_features=to_device(positions >= self._model.first_position),
            counted=to_device(counted),
            tag_rows=to_device(rows),
            tag_numbers=to_device(numbers),
        )

    def write(self, rule: LabelRule | None, shown: Shown, progress: Progress) -> IndexSummary:
        """Write the index next to its folder, then move it there."""
        out = self._output.work / "finished"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        corpus = CorpusTokens(
            *self.log.read(), self._n_counted, self.log.read_sources(), self._occurrences.numpy()
        )
        token_names: dict[int, str] = {}
        tags = list(self._tags), self._groups, self._tag_totals
        total, done = sum(layer.n_features for layer in self._model.transcoders.layers), 0
        index, labels, alive = [], {}, 0
        for layer, statistics in enumerate(self._layers):
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
            tokens=self._n_counted,
            documents=self._reader.position.documents,
            skipped=self._reader.position.unknown,
        )


def _identity(
    model: Model, corpus: Corpus, context: int, batch_tokens: int, limit: int
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
        "data type": str(model.bridge.dtype),
        "device": model.device.type,
    }
