"""Write the statistics of all features as an index in the published layout."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from tracer.indexing import labels
from tracer.indexing.slots import REACH
from tracer.indexing.statistics import LayerStatistics
from tracer.model.model import Model

Array = NDArray[Any]
_QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
_SHOWN_OF_A_HALF: Final = 4
_DIGITS: Final = 4


@dataclass(frozen=True)
class Observed:
    """What was observed on the whole corpus, besides the features' own statistics."""

    tokens: Array
    """``(places,)`` every token that was run."""
    windows: Array
    """``(windows,)`` place of each window's first token."""
    n_counted: int
    """Tokens whose prefix was met for the first time: what a share of tokens is a share of."""

    def window(self, place: int) -> tuple[int, int]:
        """The part of ``place``'s window that is shown with it: from, to."""
        number = int(np.searchsorted(self.windows, place, side="right"))
        stop = int(self.windows[number]) if number < len(self.windows) else len(self.tokens)
        return max(int(self.windows[number - 1]), place - REACH), min(stop, place + REACH + 1)


class LayerWriter:
    """Turns one layer's statistics into records."""

    def __init__(
        self,
        model: Model,
        layer: int,
        statistics: LayerStatistics,
        suppressed: Int[Tensor, "features shown"],
        observed: Observed,
        names: dict[int, str],
    ) -> None:
        self._model, self._layer, self._observed, self._names = model, layer, observed, names
        self.arrays: dict[str, Array] = {
            name: tensor.cpu().numpy() for name, tensor in statistics.tensors()
        } | {"totals": statistics.totals.numpy(), "said": statistics.said.numpy()}
        self.suppressed: Array = suppressed.cpu().numpy()

    def token(self, token: int) -> str:
        if token not in self._names:
            self._names[token] = self._model.token_string(token)
        return self._names[token]

    def name(self, token: int) -> str:
        """A token as a label says it: without spaces around it, and visible."""
        text = self.token(token)
        return text.strip() or repr(text)[1:-1]

    @cached_property
    def n_alive(self) -> int:
        return int((self.arrays["counts"] > 0).sum())

    def token_labels(self, rule: labels.LabelRule) -> labels.Labels:
        """Labels by the tokens that features fire on (rule 4)."""
        found: labels.Labels = {}
        for feature, count in enumerate(self.arrays["counts"].tolist()):
            places, values = self._held("sample", feature)
            if len(places):
                tokens = self._observed.tokens[places]
                label = labels.token_label(rule, tokens, values, count, self.name)
                if label is not None:
                    found[feature] = label
        return found

    def strongest_names(self, feature: int) -> list[str]:
        """The tokens of the strongest observations, the strongest first."""
        places, values = self._held("strongest", feature)
        order = (-values).argsort(kind="stable")
        return [self.name(int(self._observed.tokens[place])) for place in places[order]]

    def records(self, found: labels.Labels) -> Iterator[bytes]:
        """The bytes of every feature's record, its length before it."""
        for feature in range(len(self.arrays["counts"])):
            raw = self._record(feature, found.get(feature))
            packed = zlib.compress(json.dumps(raw, ensure_ascii=False).encode(), 9)
            yield struct.pack("<I", len(packed)) + packed

    def _held(self, kind: str, feature: int) -> tuple[Array, Array]:
        values = self.arrays[f"{kind}.values"][feature]
        n = int((values > 0).sum())
        return self.arrays[f"{kind}.places"][feature, :n], values[:n]

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
            "activation_frequency": count / max(self._observed.n_counted, 1),
        }
        if count:
            sampled = self._held("sample", feature)[1].astype(np.float64)
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
        places, _ = self._held("strongest", feature)
        examples = [
            self._example("strongest", feature, slot, digits) for slot in range(len(places))
        ]
        groups = [{"quantile_name": "Top activations", "examples": examples}]
        if count > 2 * self.arrays["strongest.values"].shape[1]:
            for name, slots in self._halves(feature, set(places.tolist())):
                shown = [self._example("sample", feature, slot, digits) for slot in slots]
                groups.append({"quantile_name": name, "examples": shown})
        return groups

    def _halves(self, feature: int, shown: set[int]) -> Iterator[tuple[str, list[int]]]:
        """Slots of the sample's observations above and below its median, some of each, the
        strongest first; without those that are ``shown`` already."""
        places, values = self._held("sample", feature)
        middle = np.median(values)
        with_window = range(min(len(places), self.arrays["sample.windows"].shape[1]))
        left = [slot for slot in with_window if int(places[slot]) not in shown]
        left.sort(key=lambda slot: (-float(values[slot]), int(places[slot])))
        for name, half in (
            ("Upper half", [slot for slot in left if values[slot] >= middle]),
            ("Lower half", [slot for slot in left if values[slot] < middle]),
        ):
            if half:
                step = max(1, len(half) // _SHOWN_OF_A_HALF)
                yield name, half[step // 2 :: step][:_SHOWN_OF_A_HALF]

    def _example(self, kind: str, feature: int, slot: int, digits: int) -> dict[str, Any]:
        place = int(self.arrays[f"{kind}.places"][feature, slot])
        start, stop = self._observed.window(place)
        values = self.arrays[f"{kind}.windows"][feature, slot, : stop - start]
        return {
            "tokens": [self.token(t) for t in self._observed.tokens[start:stop].tolist()],
            "tokens_acts_list": [round(value, digits) for value in values.tolist()],
            "train_token_ind": place - start,
            "is_repeated_datapoint": False,
        }


def write_json_gz(path: Path, value: Any) -> None:
    """Compressed JSON whose bytes depend on the value alone."""
    packed = gzip.compress(json.dumps(value, ensure_ascii=False).encode(), mtime=0)
    path.write_bytes(packed)
