"""`build_index`: stream a corpus through a model and keep what each transcoder feature fires on."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from tracer.errors import CorpusError, ModelError
from tracer.indexing.checkpoint import (
    CHECKPOINT_VERSION,
    Spill,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
)
from tracer.indexing.corpus import Corpus, open_corpus
from tracer.indexing.labels import (
    LabelRule,
    Labels,
    said_labels,
    shortened,
    tag_labels,
    written_out,
)
from tracer.indexing.logit_effects import moved_tokens
from tracer.indexing.memory import PREFIXES, check_memory, index_memory
from tracer.indexing.output_folder import Place
from tracer.indexing.prefixes import PrefixSet, prefix_hashes
from tracer.indexing.records import LayerWriter, Observed, write_json_gz
from tracer.indexing.statistics import BatchTokens, LayerStatistics, window_width
from tracer.indexing.windows import Position, Window, WindowReader
from tracer.model.model import Model
from tracer.types import Progress

VERSION: Final = 1
"""Of what is counted and written: an unfinished build of another one is not gone on with."""
_MOST_TOKENS: Final = 2**31 - 2**20
"""Places are kept in 32 bits."""


@dataclass(frozen=True)
class IndexSummary:
    """What an index holds."""

    features: int
    alive: int
    """Features that fire at least once."""
    labelled: int
    tokens: int
    """Tokens that were counted: whose prefix was met for the first time."""
    documents: int
    skipped: int
    """Documents left out because they hold words the tokenizer does not know."""

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
    limit_tokens: int | None = None,
    checkpoint_tokens: int | None = 2**20,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> IndexSummary:
    """Write the feature index of the model's transcoder set, from a corpus, as ``folder``.

    ``folder`` becomes the ``features`` folder of the published layout (name it that, inside the
    transcoder set's own folder, for it to be found); it appears whole, and one that is there is
    replaced only then. ``corpus`` is a file of documents (:mod:`tracer.indexing.corpus`), a parquet
    one with its texts in ``column``. Documents are cut into windows of ``context`` tokens, fewer if
    the model reads fewer; ``batch_tokens`` of them run at a time. After ``limit_tokens`` the rest
    of the corpus is left. ``label=None`` labels nothing.

    While it works it keeps ``<folder>.partial`` beside the folder, with a checkpoint every
    ``checkpoint_tokens`` (None: only at the end of the corpus). A build that was stopped and is
    started again with the same model, corpus and options goes on there and ends with the same
    bytes. ``progress`` hears of tokens, then of features; it may raise
    :class:`tracer.errors.Cancelled`.

    Raises :class:`CorpusError` for a corpus or options that cannot be used,
    :class:`FeatureIndexError` when the folder holds anything but an index, cannot be written, or an
    unfinished index of another build stands in the way, and :class:`MemoryLimitError`, before
    anything runs, when the statistics would not fit.
    """
    for name, value, least in (
        ("context", context, model.first_position + 1),
        ("batch_tokens", batch_tokens, 1),
        ("limit_tokens", limit_tokens, 1),
        ("checkpoint_tokens", checkpoint_tokens, 1),
    ):
        if value is not None and value < least:
            raise CorpusError(f"{name} is {value}: give at least {least}")
    source = open_corpus(corpus, column)
    with Place(folder) as place:
        build = _Build(
            model,
            source,
            place,
            min(context, model.bridge.n_context),
            batch_tokens,
            min(limit_tokens or _MOST_TOKENS, _MOST_TOKENS),
            memory_limit,
        )
        with build.spill:
            build.read(checkpoint_tokens, progress or _noop_progress)
            with place.writing():
                return build.write(label, progress or _noop_progress)


def _noop_progress(done: int, total: int, what: str) -> None:
    pass


class _Build:
    """One build: the statistics, and the corpus they have been gathered from so far."""

    def __init__(
        self,
        model: Model,
        corpus: Corpus,
        place: Place,
        context: int,
        batch_tokens: int,
        limit: int,
        memory_limit: int | None,
    ) -> None:
        self.model, self.place = model, place
        self.batch_tokens, self.limit = batch_tokens, limit
        self.identity = _identity(model, corpus, context, batch_tokens, limit)
        self.tags, self.groups = corpus.tags()
        check_memory(
            index_memory(model, context, batch_tokens, len(self.tags)), model, memory_limit
        )
        self.device = torch.device("cpu") if model.device.type == "mps" else model.device
        self.held = np.zeros(len(self.tags), np.int64)
        self.n_counted = 0
        known = load_checkpoint(self.place.work, self.identity)
        self.layers: list[LayerStatistics] = []
        self.suppressed: list[Tensor] = []
        for layer in range(model.n_layers):
            promoted, suppressed = moved_tokens(model, layer)
            self.suppressed.append(suppressed)
            self.layers.append(
                LayerStatistics(
                    layer,
                    promoted.to(self.device),
                    len(self.tags),
                    window_width(context),
                    self.device,
                )
            )
        position, prefixes = Position(), None
        if known is not None:
            position = Position(**known["position"])
            self.n_counted = int(known["n_counted"])
            self.held = np.array(known["held"], np.int64)
            hashes = load_tensors(self.place.work, known["state"], self._tensors())
            prefixes = hashes.numpy().view(np.uint64)
        self.prefixes = PrefixSet(PREFIXES, prefixes)
        self.corpus = corpus
        self.reader = WindowReader(model, corpus, context, self.tags, limit, position)
        begun = (known["n_tokens"], known["n_windows"]) if known is not None else (0, 0)
        with place.writing():
            self.spill = Spill(place.work, *begun)

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{number}.{name}": tensor
            for number, layer in enumerate(self.layers)
            for name, tensor in layer.tensors()
        }

    def read(self, checkpoint_tokens: int | None, progress: Progress) -> None:
        """Run the corpus, from where it stands to its end."""
        position = self.reader.position
        saved = position.tokens
        while batch := self.reader.batch(self.batch_tokens):
            self._add(batch)
            if checkpoint_tokens is not None and position.tokens - saved >= checkpoint_tokens:
                self._save()
                saved = position.tokens
            whole = int(position.tokens / max(position.share, 1e-9))
            progress(position.tokens, max(position.tokens, min(whole, self.limit)), "reading")
        if position.tokens > saved:
            self._save()
        if not self.n_counted:
            why = f": {position.unknown:,} documents have unknown words" if position.unknown else ""
            self.place.forget()
            raise CorpusError(
                f"{self.corpus.path} has no document that {self.model.source.name} can read{why}; "
                "give documents of at least one word that it knows"
            )

    def _save(self) -> None:
        known = {
            "identity": self.identity,
            "position": asdict(self.reader.position),
            "n_tokens": self.spill.n_tokens,
            "n_windows": self.spill.n_windows,
            "n_counted": self.n_counted,
            "held": self.held.tolist(),
        }
        prefixes = torch.from_numpy(self.prefixes.hashes().view(np.int64))
        with self.place.writing():
            self.spill.flush()
            save_checkpoint(self.place.work, known, {**self._tensors(), "prefixes": prefixes})

    @torch.no_grad()
    def _add(self, windows: list[Window]) -> None:
        """Run a batch and count it. Windows without a new prefix are left out."""
        new = self._new_prefixes(windows)
        windows = [window for window, seen in zip(windows, new, strict=True) if seen.any()]
        if not windows:
            return
        counted = np.concatenate([seen for seen in new if seen.any()])
        ids, real = _padded(windows)
        device = self.model.device
        mask = torch.from_numpy(real).to(device)
        reads = [self.model.read_hook(layer) for layer in range(self.model.n_layers)]
        logits, inputs = self.model.bridge.capture_batch(torch.from_numpy(ids).to(device), reads)
        best = logits.max(-1)
        del logits
        if not torch.isfinite(best.values[mask]).all():
            raise ModelError(
                f"{self.model.source.name} answers with numbers that are not finite: its weights "
                "are damaged or the data type is too narrow; try dtype float32"
            )
        tokens = self._tokens(windows, ids[real], best.indices[mask], counted)
        for layer, (name, statistics) in enumerate(zip(reads, self.layers, strict=True)):
            read = inputs.pop(name)[mask]
            active = self.model.transcoders[layer].activations(read)
            statistics.add(active.to(self.device), tokens)
        with self.place.writing():
            self.spill.append(ids[real].astype(np.int32), (len(window.ids) for window in windows))
        self.n_counted += int(counted.sum())

    def _new_prefixes(self, windows: list[Window]) -> list[np.ndarray]:
        """Per window and token, whether the prefix that ends there is new and carries features."""
        ids, real = _padded(windows)
        carries = real.copy()
        carries[:, : self.model.first_position] = False
        new = np.zeros(real.shape, bool)
        new[carries] = self.prefixes.add(prefix_hashes(ids)[carries])
        return [row[: len(window.ids)] for row, window in zip(new, windows, strict=True)]

    def _tokens(
        self, windows: list[Window], ids: np.ndarray, said: Tensor, counted: np.ndarray
    ) -> BatchTokens:
        lengths = np.array([len(window.ids) for window in windows])
        stops = lengths.cumsum()
        starts = stops - lengths
        pairs = [
            (start + place, number)
            for window, start in zip(windows, starts.tolist(), strict=True)
            for place, held in enumerate(window.tags or ())
            if held and counted[start + place]
            for number in held
        ]
        rows, numbers = np.array(pairs, np.int64).reshape(-1, 2).T
        self.held += np.bincount(numbers, minlength=len(self.held))

        def moved(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

        return BatchTokens(
            first=self.spill.n_tokens,
            tokens=moved(ids),
            said=said.to(self.device),
            starts=moved(starts.repeat(lengths)),
            stops=moved(stops.repeat(lengths)),
            carries=moved(
                np.arange(len(ids)) - starts.repeat(lengths) >= self.model.first_position
            ),
            counted=moved(counted),
            tag_rows=moved(rows),
            tag_numbers=moved(numbers),
        )

    def write(self, rule: LabelRule | None, progress: Progress) -> IndexSummary:
        """Write the index beside the folder, then put it in its place."""
        out = self.place.work / "whole"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        observed = Observed(*self.spill.read(), self.n_counted)
        names: dict[int, str] = {}
        total, done, alive = sum(layer.n_features for layer in self.model.transcoders.layers), 0, 0
        index, labels = [], {}
        for layer, statistics in enumerate(self.layers):
            writer = LayerWriter(
                self.model, layer, statistics, self.suppressed[layer], observed, names
            )
            found = self._labels(rule, writer) if rule is not None else {}
            offsets = [0]
            with (out / f"layer_{layer}.bin").open("wb") as file:
                for record in writer.records(found):
                    offsets.append(offsets[-1] + file.write(record))
                    done += 1
                    if done % 256 == 0 or done == total:
                        progress(done, total, f"writing layer {layer}")
            index.append({"filename": f"layer_{layer}.bin", "offsets": offsets})
            labels[str(layer)] = {
                str(feature): {"label": text, "precision": round(precision, 3)}
                for feature, (text, precision) in sorted(found.items())
            }
            alive += writer.n_alive
        write_json_gz(out / "index.json.gz", index)
        write_json_gz(out / "labels.json.gz", labels)
        self.place.put(out)
        return IndexSummary(
            features=total,
            alive=alive,
            labelled=sum(map(len, labels.values())),
            tokens=self.n_counted,
            documents=self.reader.position.documents,
            skipped=self.reader.position.unknown,
        )

    def _labels(self, rule: LabelRule, writer: LayerWriter) -> Labels:
        arrays = writer.arrays
        sums, counts, totals = arrays["tag_sums"], arrays["tag_counts"], arrays["totals"]
        found = {
            feature: (written_out(text, writer.strongest_names(feature)), share)
            for feature, (text, share) in tag_labels(
                rule, list(self.tags), self.groups, self.held, sums, counts, totals
            ).items()
        }
        said, promoted, fires = arrays["said"], arrays["promoted"], arrays["counts"]
        found = said_labels(rule, said, promoted, totals, fires, writer.name) | found
        if not self.tags:
            found = writer.token_labels(rule) | found
        return {feature: (shortened(text), share) for feature, (text, share) in found.items()}


def _padded(windows: list[Window]) -> tuple[np.ndarray, np.ndarray]:
    """``(windows, positions)`` token ids, filled up with each window's first token, and where a
    window's own tokens stand. Padding on the right is not seen by what comes before it."""
    longest = max(len(window.ids) for window in windows)
    ids = np.array([[*w.ids, *[w.ids[0]] * (longest - len(w.ids))] for w in windows], np.int64)
    real = np.arange(longest) < np.array([[len(window.ids)] for window in windows])
    return ids, real


def _identity(
    model: Model, corpus: Corpus, context: int, batch_tokens: int, limit: int
) -> dict[str, Any]:
    """All that shapes the statistics, by the names a person knows them by."""
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
