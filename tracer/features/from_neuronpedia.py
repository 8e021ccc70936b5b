"""FeatureLookup of single features from Neuronpedia's API, turned into the published record layout.

``GET {NEURONPEDIA_URL}/api/feature/{model}/{layer}-{source set}/{index}``. Whatever comes back is
bounded in size and only text and numbers are taken from it.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from tracer.errors import FeatureLookupError, SourceUnavailableError
from tracer.features.cards import UNREADABLE, FeatureCard, Label, card_of, unpacked
from tracer.features.disk_cache import CardCache
from tracer.types import FeatureId

if TYPE_CHECKING:
    from httpx2 import Client

MAX_ANSWER_BYTES: Final = 2**23
PATIENCE: Final = 10.0
"""Seconds without a byte."""
DEADLINE: Final = 30.0
"""Seconds for a whole answer."""
_A_DAY: Final = 86_400.0
_MAX_EXAMPLES: Final = 40
_MAX_TOKENS: Final = 256
_MAX_TOKEN: Final = 200
_MAX_LABEL: Final = 500
_KEYS: Final = frozenset({"activations", "explanations", "pos_str", "neg_str", "maxActApprox"})
"""What is said of a feature; an answer without any of these is about something else."""


class Neuronpedia:
    """One source set of one model on Neuronpedia."""

    def __init__(self, model: str, source_set: str, cache_folder: Path) -> None:
        """``model`` and ``source_set`` are Neuronpedia's names, such as ``gemma-2-2b`` and
        ``gemmascope-transcoder-16k``."""
        self._base = (os.environ.get("NEURONPEDIA_URL") or "https://www.neuronpedia.org").rstrip(
            "/"
        )
        self._host = urlsplit(self._base).netloc or self._base
        self._model, self._source_set = model, source_set
        self._store = CardCache(cache_folder, "neuronpedia", self._host, model, source_set)
        self._lock = threading.Lock()
        self._client: Client | None = None

    @property
    def labels(self) -> Mapping[FeatureId, Label]:
        """The labels of the features that were fetched so far."""
        return self._store.labels

    @property
    def n_layers(self) -> int:
        """Always 0: Neuronpedia is asked for single features."""
        return 0

    def card(self, feature: FeatureId, network: bool = True) -> FeatureCard | None:
        """What Neuronpedia says of ``feature``; without ``network``, as far as it is here.

        None when it has no such feature. Raises :class:`SourceUnavailableError` when it does not
        answer now and :class:`FeatureLookupError` when its answer cannot be read.
        """
        kept = self._store.read(feature)
        if kept is not None:
            try:
                card = _card_of_record(feature, kept)
            except UNREADABLE:
                self._store.forget(feature)
            else:
                self._learn_again(card)
                return card
        if not network or self._store.is_absent(feature, within=_A_DAY):
            return None
        answer = self._ask(feature)
        if answer is None:
            self._store.note_absent(feature)
            return None
        try:
            record = _record(json.loads(answer))
            card = _card_of_record(feature, record)
        except UNREADABLE as error:
            raise FeatureLookupError(
                f"what {self._host} says of feature {feature} is not in the form that is known "
                f"({str(error)[:200]}): look at {self._url(feature, page=True)} instead"
            ) from error
        self._store.keep(feature, record)
        if card.label is not None:
            self._store.learn(feature, card.label.text)
        return card

    def _learn_again(self, card: FeatureCard) -> None:
        """Labels lie in a file of their own, which may have been cut short or gone for room."""
        if card.label is not None and card.feature not in self._store.labels:
            with suppress(FeatureLookupError):  # it is at hand now; its card has it the next time
                self._store.learn(card.feature, card.label.text)

    def _url(self, feature: FeatureId, page: bool = False) -> str:
        parts = (self._model, f"{feature.layer}-{self._source_set}", str(feature.index))
        path = "/".join(quote(part, safe="") for part in parts)
        return f"{self._base}/{path}" if page else f"{self._base}/api/feature/{path}"

    def _ask(self, feature: FeatureId) -> bytes | None:
        """The body of the answer, None when there is no such feature."""
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
                        raise httpx2.ReadTimeout("the answer drips")
                    if len(body) > MAX_ANSWER_BYTES:
                        raise FeatureLookupError(
                            f"{self._host} sends more than {MAX_ANSWER_BYTES // 2**20} MB for "
                            f"feature {feature}, which is not read: look at "
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
                "connection, the proxy and NEURONPEDIA_URL, or set CIRCUIT_OFFLINE=1 to do without"
            ) from error

    def _refusal(self, status: int, headers: Mapping[str, str]) -> FeatureLookupError:
        if status == 429:
            after = headers.get("Retry-After", "")
            wait = f"{after} seconds" if after.isdecimal() else "a minute"
            return SourceUnavailableError(
                f"{self._host} was asked too often (status 429): try again in {wait}"
            )
        if status >= 500:
            return SourceUnavailableError(
                f"{self._host} cannot answer now (status {status}): try again in some minutes"
            )
        return SourceUnavailableError(
            f"{self._host} refuses to answer for {self._model}, source set {self._source_set} "
            f"(status {status}): check the two names and NEURONPEDIA_URL"
        )

    def _connected(self) -> Client:
        import httpx2

        with self._lock:
            if self._client is None:
                self._client = httpx2.Client(timeout=PATIENCE, follow_redirects=True)
                weakref.finalize(self, self._client.close)
            return self._client


def _card_of_record(feature: FeatureId, record: bytes) -> FeatureCard:
    raw = json.loads(unpacked(record))
    label = raw.get("label")
    return card_of(feature, raw, None if label is None else Label(str(label), None))


def _record(answer: Any) -> bytes:
    """Neuronpedia's answer in the published record layout, packed; raises one of UNREADABLE."""
    if answer and not answer.keys() & _KEYS:
        raise ValueError(f"it has {', '.join(sorted(answer)[:5])} alone")
    activations = answer.get("activations") or []
    strongest = sorted(activations, key=lambda entry: -float(entry.get("maxValue") or 0.0))
    explanations = answer.get("explanations") or [{}]
    text = explanations[0].get("description")
    counts = answer.get("freq_hist_data_bar_heights") or []
    raw = {
        "examples_quantiles": [
            {
                "quantile_name": "Top activations",
                "examples": [_example(entry) for entry in strongest[:_MAX_EXAMPLES]],
            }
        ],
        "top_logits": _texts(answer.get("pos_str")),
        "bottom_logits": _texts(answer.get("neg_str")),
        "act_max": answer.get("maxActApprox"),
        "activation_frequency": answer.get("frac_nonzero"),
        # Only counts can be shown as such; densities are left out.
        "histogram": counts if all(float(count).is_integer() for count in counts) else [],
        "label": str(text).strip()[:_MAX_LABEL] or None if text else None,
    }
    return zlib.compress(json.dumps(raw, ensure_ascii=False).encode())


def _example(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One example, cut to a window around its peak when it is long."""
    tokens, values = entry["tokens"], [float(value) for value in entry["values"]]
    if len(tokens) != len(values):
        raise ValueError(f"an example has {len(tokens)} tokens and {len(values)} values")
    peak = max(range(len(values)), key=values.__getitem__, default=0)
    start = max(0, min(peak - _MAX_TOKENS // 2, len(tokens) - _MAX_TOKENS))
    window = slice(start, start + _MAX_TOKENS)
    return {"tokens": _texts(tokens[window]), "tokens_acts_list": values[window]}


def _texts(found: Sequence[Any] | None) -> list[str]:
    if isinstance(found, str):
        raise ValueError(f"{found[:40]!r} stands where a list of texts is expected")
    return [str(text)[:_MAX_TOKEN] for text in (found or [])[:_MAX_TOKENS]]
