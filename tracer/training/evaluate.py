"""Measure how well a transcoder set replaces the MLPs of its model, on text."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tracer.errors import CorpusError, TrainingError
from tracer.model.failures import as_tracer_errors
from tracer.model.model import Model
from tracer.training.codes import SparseCode
from tracer.training.corpus_source import Padded, by_length, padded
from tracer.training.replacement import (
    Hooks,
    ablation_hooks,
    active_code,
    replacement_hooks,
    written,
)
from tracer.training.report import LayerReport, TrainingReport
from tracer.training.texts import open_texts
from tracer.training.token_store import TokenStore, store_tokens
from tracer.types import Progress

LOSS_TOKENS: Final = 2**15
"""Tokens that losses are measured on by default."""
_BATCH_TOKENS: Final = 2048
_SEED: Final = 3


def evaluate_transcoders(
    model: Model,
    corpus: str | os.PathLike[str],
    *,
    tokens: int = 2**18,
    loss_tokens: int = LOSS_TOKENS,
    context: int = 128,
    column: str = "text",
    progress: Progress | None = None,
) -> TrainingReport:
    """Measure the transcoder set of an opened model on a corpus.

    L0, unexplained variance and dead features are measured on the first ``tokens`` tokens of the
    corpus (:mod:`tracer.indexing.corpus`; a folder is read file by file), in windows of
    ``context``; losses on about ``loss_tokens`` of them, since every layer takes two more runs.

    Returns a :class:`TrainingReport`, with an empty ``training``.

    Raises :class:`tracer.errors.CorpusError` for a corpus that cannot be used and
    :class:`tracer.errors.TrainingError` for options out of range.

    >>> import tempfile, tracer
    >>> path = Path(tempfile.mkdtemp()) / "texts.txt"
    >>> _ = path.write_text("The capital of the state containing Dallas is Austin")
    >>> report = evaluate_transcoders(tracer.load("atlas", device="cpu"), path)
    >>> report.recovered > 0.9
    True
    """
    least = model.first_position + 2
    for name, value, smallest in (
        ("tokens", tokens, 1),
        ("loss_tokens", loss_tokens, 1),
        ("context", context, least),
    ):
        if value < smallest:
            raise TrainingError(f"{name} is {value}: give at least {smallest}")
    texts = open_texts(corpus, column)
    context = min(context, model.bridge.n_context)
    with tempfile.TemporaryDirectory(prefix="tracer-") as folder:
        store = store_tokens(
            model, texts, context, tokens, Path(folder), {}, progress or _no_progress
        )
        windows = np.arange(store.n_windows)
        report = evaluate_windows(model, store, windows, loss_tokens, progress)
        del store  # the file is deleted with its folder; some systems refuse while it is mapped
    return report


def evaluate_windows(
    model: Model,
    store: TokenStore,
    windows: NDArray[np.int64],
    loss_tokens: int = LOSS_TOKENS,
    progress: Progress | None = None,
) -> TrainingReport:
    """Measure the model's transcoder set on some windows of a store."""
    with as_tracer_errors("measuring transcoders", model.device):
        return _report(
            model, _Measurement(model, store, progress or _no_progress), windows, loss_tokens
        )


def _report(
    model: Model, measure: _Measurement, windows: NDArray[np.int64], loss_tokens: int
) -> TrainingReport:
    fit = measure.fit(windows)
    chosen = _some(measure.store, windows, loss_tokens)
    layers = range(model.n_layers)
    loss = measure.losses(chosen, ())
    if not loss.tokens:
        raise CorpusError(
            f"every text of the corpus is one token for {model.source.name}, which leaves none to "
            "predict: give longer texts"
        )
    replaced_model = measure.losses(chosen, replacement_hooks(model), compare=True)
    ablated = measure.losses(chosen, ablation_hooks(model))
    reports = []
    for layer in layers:
        replaced = measure.losses(chosen, replacement_hooks(model, [layer])).loss
        zero = measure.losses(chosen, ablation_hooks(model, [layer])).loss
        reports.append(
            LayerReport(
                layer=layer,
                l0=fit.l0[layer],
                unexplained=fit.unexplained[layer],
                dead=fit.dead[layer],
                replaced_loss=replaced,
                ablated_loss=zero,
                recovered=_recovered(loss.loss, replaced, zero),
            )
        )
    counts = [transcoder.n_features for transcoder in model.transcoders.layers]
    return TrainingReport(
        model=model.source.name,
        transcoders=model.source.transcoders or model.transcoders.scan,
        features=sum(counts),
        l0=sum(fit.l0),
        unexplained=sum(fit.unexplained) / model.n_layers,
        dead=sum(n * share for n, share in zip(counts, fit.dead, strict=True)) / sum(counts),
        tokens=fit.tokens,
        loss=loss.loss,
        replaced_loss=replaced_model.loss,
        ablated_loss=ablated.loss,
        recovered=_recovered(loss.loss, replaced_model.loss, ablated.loss),
        divergence=replaced_model.divergence,
        same_top=replaced_model.same_top,
        loss_tokens=loss.tokens,
        layers=tuple(reports),
    )


def _no_progress(done: int, total: int, what: str) -> None:
    pass


def _recovered(loss: float, replaced: float, ablated: float) -> float | None:
    """Return the share of the loss recovered; None if zero ablation does not raise the loss."""
    return (ablated - replaced) / (ablated - loss) if ablated > loss else None


def _some(store: TokenStore, windows: NDArray[np.int64], tokens: int) -> NDArray[np.int64]:
    """Return windows with about ``tokens`` tokens, drawn with a fixed seed."""
    order = np.random.default_rng(_SEED).permutation(windows)
    enough = int(np.searchsorted(store.lengths[order].cumsum(), tokens)) + 1
    return np.sort(order[:enough])


@dataclass(frozen=True)
class _Fit:
    """Sparsity and reconstruction error, by layer."""

    tokens: int
    l0: list[float]
    unexplained: list[float]
    dead: list[float]


@dataclass(frozen=True)
class _Losses:
    tokens: int
    loss: float
    divergence: float = 0.0
    same_top: float = 1.0


class _Measurement:
    """Runs one model over windows of one store."""

    def __init__(self, model: Model, store: TokenStore, progress: Progress) -> None:
        self.model, self.store, self.progress = model, store, progress

    @torch.no_grad()
    def fit(self, windows: NDArray[np.int64]) -> _Fit:
        """Run the model once and compare every MLP output with its reconstruction."""
        model = self.model
        layers = range(model.n_layers)
        reads = [model.read_hook(layer) for layer in layers]
        writes = [model.write_hook(layer) for layer in layers]
        fired = [torch.zeros(t.n_features, dtype=torch.bool) for t in model.transcoders.layers]
        tokens, counts = 0, [0] * len(layers)
        sums = _Variance(len(layers), model.bridge.d_model)
        for batch in self._batches(windows, "measuring features"):
            seen = model.bridge.capture_inside(batch.ids, [*reads, *writes])
            inputs = [seen[name][batch.carries].float() for name in reads]
            codes = [active_code(model.transcoders[i], inputs[i]) for i in layers]
            sums.add(
                [seen[name][batch.carries].float().cpu() for name in writes],
                self._reconstructions(inputs, codes),
            )
            tokens += len(inputs[0])
            for layer, code in enumerate(codes):
                counts[layer] += code.count()
                fired[layer] |= code.fired()
        return _Fit(
            tokens,
            [count / max(tokens, 1) for count in counts],
            sums.unexplained(),
            [1 - float(layer.float().mean()) for layer in fired],
        )

    def _reconstructions(self, inputs: list[Tensor], codes: list[SparseCode]) -> list[Tensor]:
        transcoders = self.model.transcoders.layers
        outputs = [(t.skipped(x) + t.b_dec).cpu() for t, x in zip(transcoders, inputs, strict=True)]
        for transcoder, code in zip(transcoders, codes, strict=True):
            for target, part in zip(
                transcoder.output_layers, written(transcoder, code), strict=True
            ):
                outputs[target] = outputs[target] + part
        return outputs

    @torch.no_grad()
    def losses(
        self, windows: NDArray[np.int64], hooks: Hooks | tuple[()], compare: bool = False
    ) -> _Losses:
        """Return the next-token loss under ``hooks``; with ``compare`` also the divergence from the
        model without hooks."""
        total = divergence = same = 0.0
        n = 0
        for batch in self._batches(windows, "measuring losses"):
            predicted = batch.carries[:, :-1] & batch.carries[:, 1:]
            targets = batch.ids[:, 1:][predicted]
            if not len(targets):
                continue
            logits = self._logits(batch, hooks, predicted)
            total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
            n += len(targets)
            if compare:
                own = self._logits(batch, (), predicted)
                divergence += float(
                    torch.nn.functional.kl_div(
                        logits.log_softmax(-1),
                        own.log_softmax(-1),
                        log_target=True,
                        reduction="sum",
                    )
                )
                same += int((own.argmax(-1) == logits.argmax(-1)).sum())
        return _Losses(n, total / max(n, 1), divergence / max(n, 1), same / max(n, 1))

    def _logits(
        self, batch: Padded, hooks: Hooks | tuple[()], where: Tensor
    ) -> Float[Tensor, "tokens vocab"]:
        return self.model.bridge.run_batch(batch.ids, hooks)[:, :-1][where].float()

    def _batches(self, windows: NDArray[np.int64], what: str) -> Iterator[Padded]:
        done = 0
        for group in by_length(self.store, windows, _BATCH_TOKENS):
            self.progress(done, len(windows), what)
            yield padded(self.store, group.tolist(), self.model.first_position, self.model.device)
            done += len(group)


class _Variance:
    """Squared errors and output variance, summed over batches in float64."""

    def __init__(self, n_layers: int, d_model: int) -> None:
        self._missed = torch.zeros(n_layers, dtype=torch.float64)
        self._squares = torch.zeros(n_layers, dtype=torch.float64)
        self._sums = torch.zeros(n_layers, d_model, dtype=torch.float64)
        self._n = 0

    def add(self, outputs: Collection[Tensor], reconstructions: Collection[Tensor]) -> None:
        for layer, (output, rebuilt) in enumerate(zip(outputs, reconstructions, strict=True)):
            self._missed[layer] += (output - rebuilt).double().pow(2).sum()
            self._squares[layer] += output.double().pow(2).sum()
            self._sums[layer] += output.double().sum(0)
        self._n += len(next(iter(outputs)))

    def unexplained(self) -> list[float]:
        variance = self._squares - self._sums.pow(2).sum(1) / max(self._n, 1)
        least = torch.finfo(torch.float64).tiny
        shares: list[float] = (self._missed / variance.clamp(min=least)).tolist()
        return shares
