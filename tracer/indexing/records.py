"""Write the statistics of features as records in the published layout."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from tracer.indexing import labels
from tracer.indexing.checkpoint import Sources
from tracer.indexing.corpus import Tag
from tracer.indexing.slots import REACH
from tracer.indexing.statistics import N_STRONGEST, LayerStatistics
from tracer.model.model import Model

Array = NDArray[Any]
_QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
_DIGITS: Final = 4


@dataclass(frozen=True)
class CorpusTokens:
    """The tokens that a build has run, in order."""

    tokens: Array
    """``(tokens,)`` every token that was run."""
    windows: Array
    """``(windows,)`` offset of each window's first token."""
    n_counted: int
    """Tokens whose prefix was new. Frequencies are shares of these."""
    sources: Sources
    occurrences: Array
    """``(3, vocab)`` counted tokens that are each token: in even windows, in odd ones, and those
    after which the model predicts it."""

    def source(self, offset: int) -> str:
        """Return title and author of the text of the token at ``offset``; empty if unknown."""
        return self.sources[int(self.window(offset))]

    def window(self, offsets: Any) -> Any:
        """Return the numbers of the windows that tokens belong to."""
        return np.searchsorted(self.windows, offsets, side="right") - 1

    def context(self, offset: int) -> tuple[int, int]:
        """Return the range of tokens that is shown with the token at ``offset``: start, stop."""
        number = int(np.searchsorted(self.windows, offset, side="right"))
        stop = int(self.windows[number]) if number < len(self.windows) else len(self.tokens)
        return max(int(self.windows[number - 1]), offset - REACH), min(stop, offset + REACH + 1)


@dataclass(frozen=True)
class Shown:
    """How much of the stored text is written."""

    examples: int = N_STRONGEST
    """Strongest examples; above and below the median there are a third as many each."""
    around: int = REACH
    """Tokens on either side of an example's own, at most."""


class LayerWriter:
    """Turns the statistics of one layer into records and labels."""

    def __init__(
        self,
        model: Model,
        layer: int,
        statistics: LayerStatistics,
        suppressed: Int[Tensor, "features shown"],
        corpus: CorpusTokens,
        names: dict[int, str],
        shown: Shown = Shown(),
    ) -> None:
        """``names`` caches the text of tokens, across layers."""
        self._model, self._layer, self._corpus, self._names = model, layer, corpus, names
        self._shown = shown
        self.arrays: dict[str, Array] = {
            name: tensor.cpu().numpy() for name, tensor in statistics.tensors()
        } | {"totals": statistics.totals.numpy(), "predicted": statistics.predicted.numpy()}
        self.suppressed: Array = suppressed.cpu().numpy()

    def token(self, token: int) -> str:
        """Return a token as text."""
        if token not in self._names:
            self._names[token] = self._model.token_string(token)
        return self._names[token]

    def name(self, token: int) -> str:
        """Return a token as labels name it: without surrounding spaces, and visible."""
        text = self.token(token)
        return text.strip() or repr(text)[1:-1]

    @cached_property
    def n_alive(self) -> int:
        """Number of features that fire at least once."""
        return int((self.arrays["counts"] > 0).sum())

    def find_labels(
        self,
        rule: labels.LabelRule,
        tags: Sequence[Tag],
        groups: Mapping[str, str],
        tag_totals: Array,
    ) -> tuple[labels.Labels, dict[int, float]]:
        """Return the labels of the features, of several by the first rule that applies, and the
        recall of the labels that do not come from tags."""
        arrays = self.arrays
        totals, counts = arrays["totals"], arrays["counts"]
        sums = arrays["tag_sums"], arrays["tag_counts"]
        by_tag = labels.tag_labels(rule, tags, groups, tag_totals, *sums, totals)
        predicted, promoted = arrays["predicted"], arrays["promoted"]
        by_output = labels.output_labels(rule, predicted, promoted, totals, counts, self.name)
        by_token = {} if tags else self._token_labels(rule)
        tagged = {
            feature: (labels.with_examples(text, self.strongest_names(feature)), share)
            for feature, (text, share) in by_tag.items()
        }
        recalls: dict[int, float] = {}
        if not tags:
            recalls = {feature: recall for feature, (_, _, recall) in by_token.items()}
            shown = predicted, promoted, arrays["predicted_counts"], self._corpus.occurrences[2]
            recalls |= {feature: labels.output_recall(*shown, feature) for feature in by_output}
        untagged = {feature: (text, share) for feature, (text, share, _) in by_token.items()}
        merged = (untagged | by_output | tagged).items()
        return {f: (labels.shortened(text), share) for f, (text, share) in merged}, recalls

    def _token_labels(self, rule: labels.LabelRule) -> dict[int, tuple[str, float, float]]:
        """Return labels by the tokens that features fire on, with precision and recall (rule 4)."""
        by_feature = {}
        for feature, count in enumerate(self.arrays["counts"].tolist()):
            offsets, values = self._observations("sample", feature)
            if len(offsets):
                label = labels.token_label(
                    rule,
                    self._corpus.tokens[offsets],
                    values,
                    self._corpus.window(offsets) % 2 == 1,
                    count,
                    self._corpus.occurrences[1],
                    self.name,
                )
                if label is not None:
                    by_feature[feature] = label
        return by_feature

    def strongest_names(self, feature: int) -> list[str]:
        """Return the tokens of the strongest observations, strongest first."""
        offsets, values = self._observations("strongest", feature)
        order = (-values).argsort(kind="stable")
        return [self.name(int(self._corpus.tokens[offset])) for offset in offsets[order]]

    def records(self, by_feature: labels.Labels) -> Iterator[bytes]:
        """Yield the compressed record of every feature, preceded by its length."""
        for feature in range(len(self.arrays["counts"])):
            raw = self._record(feature, by_feature.get(feature))
            packed = zlib.compress(json.dumps(raw, ensure_ascii=False).encode(), 9)
            yield struct.pack("<I", len(packed)) + packed

    def _observations(self, kind: str, feature: int) -> tuple[Array, Array]:
        """Return the offsets and values of a feature's stored observations."""
        values = self.arrays[f"{kind}.values"][feature]
        n = int((values > 0).sum())
        return self.arrays[f"{kind}.offsets"][feature, :n], values[:n]

    def _record(self, feature: int, label: tuple[str, float] | None) -> dict[str, Any]:
        count = int(self.arrays["counts"][feature])
        top = float(self.arrays["strongest.values"][feature].max())
        digits = max(3, _DIGITS - 1 - int(np.floor(np.log10(top)))) if top > 0 else 3
        record: dict[str, Any] = {
            "transcoder_id": f"{self._model.transcoders.scan}-{self._layer}",
            "index": feature,
            "examples_quantiles": self._groups(feature, count, digits),
            "top_logits": [self.token(t) for t in self.arrays["promoted"][feature].tolist()],
            "bottom_logits": [self.token(t) for t in self.suppressed[feature].tolist()],
            "act_min": round(float(self.arrays["least"][feature]), digits + 1),
            "act_max": round(top, digits + 1),
            "quantile_values": [],
            "histogram": [],
            "activation_frequency": count / max(self._corpus.n_counted, 1),
        }
        if count:
            sampled = self._observations("sample", feature)[1].astype(np.float64)
            record["quantile_values"] = [
                round(q, digits + 1) for q in np.quantile(sampled, _QUANTILES).tolist()
            ]
            bins = self.arrays["histograms"][feature]
            record["histogram"] = bins[: int(bins.nonzero()[0][-1]) + 1].tolist()
            record["histogram_step"] = float(2.0 ** int(self.arrays["exponents"][feature]))
        if label is not None:
            record |= {"label": label[0], "label_precision": round(label[1], 3)}
        return record

    def _groups(self, feature: int, count: int, digits: int) -> list[dict[str, Any]]:
        if not count:
            return []
        offsets, values = self._observations("strongest", feature)
        slots = sorted((-values).argsort(kind="stable")[: self._shown.examples].tolist())
        examples = [self._example("strongest", feature, slot, digits) for slot in slots]
        groups = [{"quantile_name": "Top activations", "examples": examples}]
        if count > 2 * self.arrays["strongest.values"].shape[1]:
            for name, slots in self._halves(feature, set(offsets.tolist())):
                shown = [self._example("sample", feature, slot, digits) for slot in slots]
                groups.append({"quantile_name": name, "examples": shown})
        return groups

    def _halves(self, feature: int, shown: set[int]) -> Iterator[tuple[str, list[int]]]:
        """Yield slots of sampled observations above and below the median, strongest first.

        Observations at the offsets in ``shown`` are left out.
        """
        offsets, values = self._observations("sample", feature)
        middle = np.median(values)
        with_window = range(min(len(offsets), self.arrays["sample.windows"].shape[1]))
        slots = [slot for slot in with_window if int(offsets[slot]) not in shown]
        slots.sort(key=lambda slot: (-float(values[slot]), int(offsets[slot])))
        for name, half in (
            ("Upper half", [slot for slot in slots if values[slot] >= middle]),
            ("Lower half", [slot for slot in slots if values[slot] < middle]),
        ):
            if half:
                most = max(1, self._shown.examples // 3)
                step = max(1, len(half) // most)
                yield name, half[step // 2 :: step][:most]

    def _example(self, kind: str, feature: int, slot: int, digits: int) -> dict[str, Any]:
        offset = int(self.arrays[f"{kind}.offsets"][feature, slot])
        start, stop = self._corpus.context(offset)
        values = self.arrays[f"{kind}.windows"][feature, slot, : stop - start]
        first = max(start, offset - self._shown.around)
        stop = min(stop, offset + self._shown.around + 1)
        values, start = values[first - start : stop - start], first
        source = self._corpus.source(offset)
        return {
            "tokens": [self.token(t) for t in self._corpus.tokens[start:stop].tolist()],
            "tokens_acts_list": [round(value, digits) for value in values.tolist()],
            "train_token_ind": offset - start,
            "is_repeated_datapoint": False,
            **({"source": source} if source else {}),
        }


def write_json_gz(path: Path, value: Any) -> None:
    """Write compressed JSON whose bytes depend only on the value."""
    packed = gzip.compress(json.dumps(value, ensure_ascii=False).encode(), mtime=0)
    path.write_bytes(packed)
