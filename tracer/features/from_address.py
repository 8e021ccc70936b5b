"""Feature cards from JSON files at an address that a graph's file names, one for each feature.

The address comes from a file that anybody may have written, so a reader's machine must not be made
to ask its own network: see :meth:`AddressFeatures.check`.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tracer.catalog.published import Numbering, feature_number
from tracer.errors import FeatureLookupError
from tracer.features.disk_cache import CardCache
from tracer.features.from_web import MAX_EXAMPLES, MAX_LABEL, LabelledRecord, WebFeatures, cut
from tracer.types import FeatureId

TRUSTED_VARIABLE: Final = "CIRCUIT_FEATURE_HOSTS"
"""Hosts, separated by commas, that may be asked although they are private or not encrypted."""


class AddressFeatures(WebFeatures):
    """The files ``{address}/{number}.json``, in the published record layout."""

    follow_redirects = False  # a redirect could lead into a private network

    def __init__(self, address: str, numbering: Numbering, cache_folder: Path) -> None:
        self._address, self._numbering = address.rstrip("/"), numbering
        host = urlsplit(address).netloc
        super().__init__(host, CardCache(cache_folder, "address", self._address, numbering))

    def url(self, feature: FeatureId, page: bool = False) -> str:
        return f"{self._address}/{feature_number(self._numbering, *feature)}.json"

    def record(self, body: bytes) -> LabelledRecord:
        record = LabelledRecord.model_validate_json(body)
        for group in record.examples_quantiles:
            group.examples = group.examples[:MAX_EXAMPLES]
        return record.model_copy(
            update={
                "label": (record.label or "").strip()[:MAX_LABEL] or None,
                "top_logits": cut(record.top_logits),
                "bottom_logits": cut(record.bottom_logits),
            }
        )

    def advice(self) -> str:
        return f"the connection, the proxy and the address {self._address}"

    def refused(self, status: int) -> str:
        return (
            f"{self._host} refused the request for {self._address} (status {status}): ask whoever "
            "published the graph"
        )

    def check(self) -> None:
        """Raise :class:`FeatureLookupError` unless the host is a public one, asked by https.

        A host in the environment variable ``CIRCUIT_FEATURE_HOSTS`` is always asked.
        """
        parts = urlsplit(self._address)
        host = parts.hostname or ""
        trusted = os.environ.get(TRUSTED_VARIABLE, "").split(",")
        if host in {name.strip() for name in trusted}:
            return
        try:
            known = socket.getaddrinfo(host, parts.port or 443, type=socket.SOCK_STREAM)
        except (OSError, ValueError):
            return  # the request fails, and says why
        public = all(ipaddress.ip_address(str(entry[4][0])).is_global for entry in known)
        if parts.scheme != "https" or not public:
            raise FeatureLookupError(
                f"the feature examples at {self._address} are not fetched: the address is in a "
                f"private network or not encrypted; add {host} to {TRUSTED_VARIABLE} to trust it"
            )
