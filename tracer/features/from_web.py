"""Feature cards from a web server that has one JSON file for each feature, cached on this disk.

Answers are bounded in size and time, and only text and numbers are taken from them.
"""

from __future__ import annotations

import threading
import time
import weakref
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tracer.errors import FeatureLookupError, SourceUnavailableError
from tracer.features.cards import FeatureCard, Label, card_of
from tracer.features.disk_cache import CardCache
from tracer.features.records import UNREADABLE, Record, Texts, reason, unpacked
from tracer.types import FeatureId

if TYPE_CHECKING:
    from httpx2 import Client

MAX_ANSWER_BYTES: Final = 2**23
PATIENCE: Final = 10.0
"""Seconds without a byte."""
DEADLINE: Final = 30.0
"""Seconds for a complete answer."""
MAX_EXAMPLES: Final = 40
MAX_TOKENS: Final = 256
MAX_TOKEN: Final = 200
MAX_LABEL: Final = 500
_A_DAY: Final = 86_400.0


class LabelledRecord(Record):
    """A record in the published layout, with the feature's label."""

    label: str | None = None


class WebFeatures(ABC):
    """A web server with the cards of one transcoder set."""

    follow_redirects = True

    def __init__(self, host: str, cache: CardCache) -> None:
        self._host = host
        """What messages call the server."""
        self._cache = cache
        self._lock = threading.Lock()
        self._client: Client | None = None

    @abstractmethod
    def url(self, feature: FeatureId, page: bool = False) -> str:
        """Return the address of a feature's JSON, or of the ``page`` that shows it."""

    @abstractmethod
    def record(self, body: bytes) -> LabelledRecord:
        """Return the record in an answer; raises one of ``UNREADABLE``."""

    @abstractmethod
    def advice(self) -> str:
        """Return what to check when the server does not answer."""

    @abstractmethod
    def refused(self, status: int) -> str:
        """Return the sentence for a request that the server refuses."""

    @abstractmethod
    def check(self) -> None:
        """Raise :class:`FeatureLookupError` if the server must not be asked."""

    @property
    def labels(self) -> Mapping[FeatureId, Label]:
        """The labels of the features that were fetched so far."""
        return self._cache.labels

    @property
    def n_layers(self) -> int:
        """Always 0: the server is only asked about single features."""
        return 0

    def card(self, feature: FeatureId, network: bool = True) -> FeatureCard | None:
        """Return the card of ``feature``, or None; without ``network``, from this disk only.

        Raises :class:`SourceUnavailableError` when the server does not answer now and
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
            record = zlib.compress(self.record(body).model_dump_json().encode())
            card = _cached_card(feature, record)
        except UNREADABLE as error:
            raise FeatureLookupError(
                f"the answer of {self._host} for feature {feature} cannot be read "
                f"({reason(error)}): look at {self.url(feature, page=True)} instead"
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

    def _request(self, feature: FeatureId) -> bytes | None:
        """Return the body of the answer, or None when there is no such feature."""
        import httpx2

        self.check()
        deadline = time.monotonic() + DEADLINE
        try:
            with self._connected().stream("GET", self.url(feature)) as response:
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
                            f"{self.url(feature, page=True)} instead"
                        )
                return bytes(body)
        except httpx2.TimeoutException as error:
            raise SourceUnavailableError(
                f"{self._host} took too long to answer for feature {feature}: try again in a minute"
            ) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise SourceUnavailableError(
                f"no answer from {self._host} for feature {feature} ({error}): check "
                f"{self.advice()}, or set CIRCUIT_OFFLINE=1 to work without it"
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
        return SourceUnavailableError(self.refused(status))

    def _connected(self) -> Client:
        import httpx2

        with self._lock:
            if self._client is None:
                self._client = httpx2.Client(
                    timeout=PATIENCE, follow_redirects=self.follow_redirects
                )
                weakref.finalize(self, self._client.close)
            return self._client


def _cached_card(feature: FeatureId, record: bytes) -> FeatureCard:
    contents = LabelledRecord.model_validate_json(unpacked(record))
    label = None if contents.label is None else Label(contents.label, None)
    return card_of(feature, contents, label)


def cut(texts: Texts | None) -> list[str]:
    """Return the first texts, each of a bounded length."""
    return [text[:MAX_TOKEN] for text in (texts or [])[:MAX_TOKENS]]
