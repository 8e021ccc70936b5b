"""Where the features of a graph of another tool are explained: every name that tools write for it.

The names come from a file, so they are checked here and followed only when a reader asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from tracer.catalog.published import Numbering, Published, feature_number, listed_set
from tracer.catalog.registry import SHORT_NAMES
from tracer.errors import HubReferenceError
from tracer.hub import Reference
from tracer.interchange.graph_json import ExternalGraph

_NEURONPEDIA: Final = re.compile(r"neuronpedia\.org/([\w.-]+)/([\w.-]+)/?$")
_LAYER: Final = re.compile(r"[0-9]{1,4}-(?=.)")
_NAME: Final = re.compile(r"[\w.-]{1,200}")
_NUMBERINGS: Final[tuple[Numbering, ...]] = ("paired", "layered", "plain")


def explained_by(provenance: Mapping[str, Any]) -> Published | None:
    """Return where the features of an imported graph are explained, or None.

    Neuronpedia's model and source set come from the file's ``neuronpedia_source_set``, or else from
    its ``source_urls``, or else from the registry's entry of its transcoder set. The repository on
    the hub is the transcoder set, the scan, or one of the ``source_urls``, and an address is the
    file's ``feature_json_base_url``.

    >>> explained_by({"source_urls": ["https://neuronpedia.org/gemma-2-2b/3-clt-hp"]}).neuronpedia
    ('gemma-2-2b', 'clt-hp')
    >>> explained_by({"scan": "mntss/clt-gemma-2-2b-2.5M"}).neuronpedia
    ('gemma-2-2b', 'clt-hp')
    """
    urls = provenance.get("source_urls")
    addresses = [str(url) for url in urls] if isinstance(urls, list) else []
    places = list(_repositories(provenance, addresses))
    known = next((entry for place in places if (entry := listed_set(place))), None)
    has_features = [p for p in places if not (e := listed_set(p)) or e[1].examples is not False]
    published = Published(
        neuronpedia=_source_set(provenance, known[0] if known else None)
        or next(filter(None, map(_on_neuronpedia, addresses)), None)
        or (known[1].neuronpedia if known else None),
        hub=next(iter(has_features), None),
        address=_address(provenance),
        numbering=_numbering(provenance) or "paired",
    )
    return published or None


def _source_set(provenance: Mapping[str, Any], model: str | None) -> tuple[str, str] | None:
    """Return the source set that the file names, of the scan's model."""
    scan, source_set = provenance.get("scan"), provenance.get("source_set")
    if not scan or not source_set:
        return None
    names = str(scan) if model is None else model, _LAYER.sub("", str(source_set), count=1)
    return names if all(map(_NAME.fullmatch, names)) else None


def _on_neuronpedia(url: str) -> tuple[str, str] | None:
    """Return the model and source set of a page; one of a single layer is of the same set."""
    match = _NEURONPEDIA.search(url)
    return (match[1], _LAYER.sub("", match[2], count=1)) if match else None


def _repositories(provenance: Mapping[str, Any], addresses: list[str]) -> Iterator[str]:
    """Yield the repositories that may have the features, the most certain first."""
    for key in ("transcoder_set", "scan"):
        text = str(provenance.get(key) or "")
        text = SHORT_NAMES.get(text, text)
        if _is_reference(text):
            yield text
    for address in addresses:
        text = _in_address(address)
        if text and _is_reference(text):
            yield text


def _in_address(address: str) -> str:
    """Return ``org/name/folder@revision`` of a page of the hub; empty for any other address."""
    try:
        parts = urlsplit(address)
    except ValueError:  # such as "https://[x"
        return ""
    if parts.scheme == "hf":
        return address
    if parts.hostname not in ("huggingface.co", "www.huggingface.co", "hf.co"):
        return ""
    owner, name, *rest = [*[unquote(part) for part in parts.path.split("/") if part], "", ""]
    place = f"{owner}/{name}"
    if rest[:1] == ["tree"] and len(rest) > 1 and rest[1]:
        folder = "/".join(part for part in rest[2:] if part)
        place = f"{place}/{folder}@{rest[1]}" if folder else f"{place}@{rest[1]}"
    return place if owner not in ("datasets", "spaces") else ""


def _is_reference(text: str) -> bool:
    try:
        Reference.parse(text)
    except HubReferenceError:
        return False
    return True


def _address(provenance: Mapping[str, Any]) -> str | None:
    """Return the address of the feature files, where the numbers of the features are known."""
    address = str(provenance.get("feature_address") or "").rstrip("/")
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return None
    return address if valid and _numbering(provenance) and not parts.query else None


def _numbering(provenance: Mapping[str, Any]) -> Numbering | None:
    stored = provenance.get("feature_numbers")
    return next((numbering for numbering in _NUMBERINGS if stored == numbering), None)


def numbering_of(external: ExternalGraph) -> Numbering | None:
    """Return how a file numbers its features in the field ``feature``; None where it does not.

    >>> from tracer.interchange.published_nodes import ExternalNode
    >>> from tracer.types import NodeId
    >>> node = ExternalNode("3_417_8", NodeId("feature", 3, 8, 417), "", {"feature": 88827})
    >>> numbering_of(ExternalGraph({}, (node,), *3 * ((),)))
    'paired'
    """
    features = [
        (entry.node, entry.stored.get("feature"))
        for entry in external.nodes
        if entry.node is not None and entry.node.kind == "feature"
    ]
    for numbering in _NUMBERINGS:
        if features and all(
            feature_number(numbering, node.layer, node.index) == number for node, number in features
        ):
            return numbering
    return None
