"""Feature cards from Neuronpedia's API, cached in the published record layout.

``GET {NEURONPEDIA_URL}/api/feature/{model}/{layer}-{source set}/{index}``. Answers are bounded in
size, and only text and numbers are taken from them.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote, urlsplit

from pydantic import Field, FiniteFloat, model_validator

from tracer.errors import FeatureLookupError, SourceUnavailableError
from tracer.features.cards import FeatureCard, Label, card_of
from tracer.features.disk_cache import CardCache
from tracer.features.records import (
    UNREADABLE,
    Lenient,
    Numbers,
    Record,
    RecordExample,
    RecordGroup,
    Texts,
    reason,
    unpacked,
)
from tracer.types import FeatureId

if TYPE_CHECKING:
    from httpx2 import Client

MAX_ANSWER_BYTES: Final = 2**23
PATIENCE: Final = 10.0
"""Seconds without a byte."""
DEADLINE: Final = 30.0
"""Seconds for a complete answer."""
_A_DAY: Final = 86_400.0
_MAX_EXAMPLES: Final = 40
_MAX_TOKENS: Final = 256
_MAX_TOKEN: Final = 200
_MAX_LABEL: Final = 500


class Neuronpedia:
    """One source set of one model on Neuronpedia."""

    def __init__(self, model: str, source_set: str, cache_folder: Path) -> None:
        """Open a source set by Neuronpedia's names for it and its model.

        For example ``gemma-2-2b`` and ``gemmascope-transcoder-16k``.
        """
        address = _address()
        self._base = address.rstrip("/")
        self._host = urlsplit(self._base).netloc or self._base
        self._model, self._source_set = model, source_set
        self._cache = CardCache(cache_folder, "neuronpedia", self._host, model, source_set)
        self._lock = threading.Lock()
        self._client: Client | None = None

    @property
    def labels(self) -> Mapping[FeatureId, Label]:
        """The labels of the features that were fetched so far."""
        return self._cache.labels

    @property
    def n_layers(self) -> int:
        """Always 0: Neuronpedia is only asked about single features."""
        return 0

    def card(self, feature: FeatureId, network: bool = True) -> FeatureCard | None:
        """Return the card of ``feature``, or None; without ``network``, from this disk only.

        Raises :class:`SourceUnavailableError` when Neuronpedia does not answer now and
        :class:`FeatureLookupError` when its answer cannot be read.
        """
        cached = self._cache.read(feature)
        if cached is not None:
            try:
                card = _cached_card(feature, cached)
            except UNREADABLE:
                self._cache.forget(feature)
            else:
                self._restore_label(card)
                return card
        if not network or self._cache.is_absent(feature, within=_A_DAY):
            return None
        body = self._request(feature)
        if body is None:
            self._cache.note_absent(feature)
            return None
        try:
            record = _record(_Answer.model_validate_json(body))
            card = _cached_card(feature, record)
        except UNREADABLE as error:
            raise FeatureLookupError(
                f"the answer of {self._host} for feature {feature} cannot be read "
                f"({reason(error)}): look at {self._url(feature, page=True)} instead"
            ) from error
        self._cache.keep(feature, record)
        if card.label is not None:
            self._cache.learn(feature, card.label.text)
        return card

    def _restore_label(self, card: FeatureCard) -> None:
        """Add the label of a cached card again if the file of labels was truncated or evicted."""
        if card.label is not None and card.feature not in self._cache.labels:
            with suppress(FeatureLookupError):  # it is in memory now, and on disk in its card
                self._cache.learn(card.feature, card.label.text)

    def _url(self, feature: FeatureId, page: bool = False) -> str:
        parts = (self._model, f"{feature.layer}-{self._source_set}", str(feature.index))
        path = "/".join(quote(part, safe="") for part in parts)
        return f"{self._base}/{path}" if page else f"{self._base}/api/feature/{path}"

    def _request(self, feature: FeatureId) -> bytes | None:
        """Return the body of the answer, or None when there is no such feature."""
        import httpx2

        deadline = time.monotonic() + DEADLINE
        try:
            with self._connected().stream("GET", self._url(feature)) as response:
                if response.status_code == 404:
                    return None
                if response.status_code != 200:
                    raise self._refusal(response.status_code, response.headers)
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if time.monotonic() > deadline:
                        raise httpx2.ReadTimeout("the deadline for the complete answer passed")
                    if len(body) > MAX_ANSWER_BYTES:
                        raise FeatureLookupError(
                            f"the answer of {self._host} for feature {feature} is larger than "
                            f"{MAX_ANSWER_BYTES // 2**20} MB and was not read: look at "
                            f"{self._url(feature, page=True)} instead"
                        )
                return bytes(body)
        except httpx2.TimeoutException as error:
            raise SourceUnavailableError(
                f"{self._host} took too long to answer for feature {feature}: try again in a minute"
            ) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise SourceUnavailableError(
                f"no answer from {self._host} for feature {feature} ({error}): check the "
                "connection, the proxy and NEURONPEDIA_URL, or set CIRCUIT_OFFLINE=1 to work "
                "without it"
            ) from error

    def _refusal(self, status: int, headers: Mapping[str, str]) -> FeatureLookupError:
        if status == 429:
            after = headers.get("Retry-After", "")
            wait = f"{after} seconds" if after.isdecimal() and len(after) < 6 else "a minute"
            return SourceUnavailableError(
                f"{self._host} received too many requests (status 429): try again in {wait}"
            )
        if status >= 500:
            return SourceUnavailableError(
                f"{self._host} is unavailable (status {status}): try again in a few minutes"
            )
        return SourceUnavailableError(
            f"{self._host} refused the request for {self._model}, source set {self._source_set} "
            f"(status {status}): check the two names and NEURONPEDIA_URL"
        )

    def _connected(self) -> Client:
        import httpx2

        with self._lock:
            if self._client is None:
                self._client = httpx2.Client(timeout=PATIENCE, follow_redirects=True)
                weakref.finalize(self, self._client.close)
            return self._client


class _CachedRecord(Record):
    """A record with Neuronpedia's label."""

    label: str | None = None


def _cached_card(feature: FeatureId, record: bytes) -> FeatureCard:
    contents = _CachedRecord.model_validate_json(unpacked(record))
    label = None if contents.label is None else Label(contents.label, None)
    return card_of(feature, contents, label)


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
        start = max(0, min(peak - _MAX_TOKENS // 2, len(self.tokens) - _MAX_TOKENS))
        window = slice(start, start + _MAX_TOKENS)
        return RecordExample(tokens=_cut(self.tokens[window]), tokens_acts_list=self.values[window])


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


def _record(answer: _Answer) -> bytes:
    """Return an answer in the published record layout, packed; raises one of ``UNREADABLE``."""
    strongest = sorted(answer.activations or [], key=lambda entry: -(entry.maxValue or 0.0))
    text = answer.explanations[0].description if answer.explanations else None
    counts = answer.freq_hist_data_bar_heights or []
    record = _CachedRecord(
        examples_quantiles=[
            RecordGroup(
                quantile_name="Top activations",
                examples=[entry.example() for entry in strongest[:_MAX_EXAMPLES]],
            )
        ],
        top_logits=_cut(answer.pos_str),
        bottom_logits=_cut(answer.neg_str),
        act_max=answer.maxActApprox,
        activation_frequency=answer.frac_nonzero,
        # Densities cannot be shown as counts, so they are left out.
        histogram=counts if all(count.is_integer() for count in counts) else [],
        label=text.strip()[:_MAX_LABEL] or None if text else None,
    )
    return zlib.compress(record.model_dump_json().encode())


def _cut(texts: list[str] | None) -> list[str]:
    return [text[:_MAX_TOKEN] for text in (texts or [])[:_MAX_TOKENS]]


def neuronpedia_page(model: str, source_set: str, feature: FeatureId) -> str:
    """Return the address of a feature's page on Neuronpedia.

    >>> neuronpedia_page("gemma-2-2b", "clt-hp", FeatureId(12, 84338))
    'https://www.neuronpedia.org/gemma-2-2b/12-clt-hp/84338'
    """
    parts = (model, f"{feature.layer}-{source_set}", str(feature.index))
    return "/".join((_address().rstrip("/"), *(quote(part, safe="") for part in parts)))


def _address() -> str:
    return os.environ.get("NEURONPEDIA_URL") or "https://www.neuronpedia.org"
