"""Feature cards from Neuronpedia's API, cached in the published record layout.

``GET {NEURONPEDIA_URL}/api/feature/{model}/{layer}-{source set}/{index}``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from pydantic import Field, FiniteFloat, model_validator

from tracer.features.disk_cache import CardCache
from tracer.features.from_web import (
    MAX_EXAMPLES,
    MAX_LABEL,
    MAX_TOKENS,
    LabelledRecord,
    WebFeatures,
    cut,
)
from tracer.features.records import Lenient, Numbers, RecordExample, RecordGroup, Texts
from tracer.types import FeatureId


class Neuronpedia(WebFeatures):
    """One source set of one model on Neuronpedia."""

    def __init__(self, model: str, source_set: str, cache_folder: Path) -> None:
        """Open a source set by Neuronpedia's names for it and its model.

        For example ``gemma-2-2b`` and ``gemmascope-transcoder-16k``.
        """
        address = _address()
        self._base = address.rstrip("/")
        self._model, self._source_set = model, source_set
        host = urlsplit(self._base).netloc or self._base
        super().__init__(host, CardCache(cache_folder, "neuronpedia", host, model, source_set))

    def url(self, feature: FeatureId, page: bool = False) -> str:
        parts = (self._model, f"{feature.layer}-{self._source_set}", str(feature.index))
        path = "/".join(quote(part, safe="") for part in parts)
        return f"{self._base}/{path}" if page else f"{self._base}/api/feature/{path}"

    def record(self, body: bytes) -> LabelledRecord:
        return _record(_Answer.model_validate_json(body))

    def check(self) -> None:
        """Allow every server: its address is the user's own choice."""

    def advice(self) -> str:
        return "the connection, the proxy and NEURONPEDIA_URL"

    def refused(self, status: int) -> str:
        return (
            f"{self._host} refused the request for {self._model}, source set {self._source_set} "
            f"(status {status}): check the two names and NEURONPEDIA_URL"
        )


class _Activation(Lenient):
    tokens: Texts
    values: Numbers
    maxValue: FiniteFloat | None = None

    def example(self) -> RecordExample:
        """Return the example, cut to a window around its peak if it is long.

        Raises ``ValueError`` when tokens and values differ in number.
        """
        if len(self.tokens) != len(self.values):
            raise ValueError(f"{len(self.tokens)} tokens have {len(self.values)} values")
        peak = max(range(len(self.values)), key=self.values.__getitem__, default=0)
        start = max(0, min(peak - MAX_TOKENS // 2, len(self.tokens) - MAX_TOKENS))
        window = slice(start, start + MAX_TOKENS)
        return RecordExample(tokens=cut(self.tokens[window]), tokens_acts_list=self.values[window])


class _Explanation(Lenient):
    description: str | None = None


class _Answer(Lenient):
    """The fields of Neuronpedia's answer that a card is made of."""

    activations: Annotated[list[_Activation], Field(fail_fast=True)] | None = None
    explanations: Annotated[list[_Explanation], Field(fail_fast=True)] | None = None
    pos_str: Texts | None = None
    neg_str: Texts | None = None
    maxActApprox: FiniteFloat | None = None
    frac_nonzero: FiniteFloat | None = None
    freq_hist_data_bar_heights: Numbers | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_about_a_feature(cls, value: Any) -> Any:
        if isinstance(value, dict) and value and not value.keys() & cls.model_fields.keys():
            raise ValueError("the fields of a feature, such as activations")
        return value


def _record(answer: _Answer) -> LabelledRecord:
    """Return an answer in the published record layout; raises one of ``UNREADABLE``."""
    strongest = sorted(answer.activations or [], key=lambda entry: -(entry.maxValue or 0.0))
    text = answer.explanations[0].description if answer.explanations else None
    counts = answer.freq_hist_data_bar_heights or []
    return LabelledRecord(
        examples_quantiles=[
            RecordGroup(
                quantile_name="Top activations",
                examples=[entry.example() for entry in strongest[:MAX_EXAMPLES]],
            )
        ],
        top_logits=cut(answer.pos_str),
        bottom_logits=cut(answer.neg_str),
        act_max=answer.maxActApprox,
        activation_frequency=answer.frac_nonzero,
        # Densities cannot be shown as counts, so they are left out.
        histogram=counts if all(count.is_integer() for count in counts) else [],
        label=text.strip()[:MAX_LABEL] or None if text else None,
    )


def neuronpedia_page(model: str, source_set: str, feature: FeatureId) -> str:
    """Return the address of a feature's page on Neuronpedia.

    >>> neuronpedia_page("gemma-2-2b", "clt-hp", FeatureId(12, 84338))
    'https://www.neuronpedia.org/gemma-2-2b/12-clt-hp/84338'
    """
    parts = (model, f"{feature.layer}-{source_set}", str(feature.index))
    return "/".join((_address().rstrip("/"), *(quote(part, safe="") for part in parts)))


def _address() -> str:
    return os.environ.get("NEURONPEDIA_URL") or "https://www.neuronpedia.org"
