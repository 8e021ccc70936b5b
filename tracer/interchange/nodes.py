"""Where a published graph is from, and what it calls its features. Data only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tracer.catalog.registry import registry
from tracer.errors import ExternalGraphError, short
from tracer.graph.graph import AttributionGraph
from tracer.interchange.graph_json import ExternalGraph
from tracer.interchange.labels import external_labels as external_labels
from tracer.interchange.marks import external_annotations as external_annotations
from tracer.interchange.marks import with_annotations as with_annotations
from tracer.interchange.notes import LEFT_OUT, left_out
from tracer.interchange.placing import external_index as external_index
from tracer.interchange.placing import external_places as external_places
from tracer.types import FeatureId

_NEURONPEDIA: Final = re.compile(r"neuronpedia\.org/([\w.-]+)/([\w.-]+)/?$")
_FEATURE: Final = re.compile(r"L([0-9]{1,10})/([0-9]{1,10})")


def origin(external: ExternalGraph) -> dict[str, Any]:
    """Return where a published graph is from, as the provenance of the graph it becomes.

    Always ``imported`` (its slug) and ``scan``; where the file has them ``tool``,
    ``transcoder_set``, ``source_set`` (Neuronpedia's), ``source_urls``, ``node_threshold`` and
    ``edge_threshold``; ``labels`` by ``str(FeatureId)``, and ``left_out``, the counts of
    :func:`tracer.interchange.notes.left_out`. A value of another type than expected is left out.
    """
    metadata = external.metadata
    info, pruning, details = (
        _mapping(metadata.get(key)) for key in ("info", "pruning_settings", "feature_details")
    )
    generator, urls = _mapping(info.get("generator")), info.get("source_urls")
    tool = (generator.get(key) for key in ("name", "version"))
    optional: dict[str, Any] = {
        "tool": " ".join(str(part) for part in tool if isinstance(part, str | int | float)),
        "transcoder_set": _of_type(info.get("transcoder_set"), str),
        "source_set": _of_type(details.get("neuronpedia_source_set"), str),
        "source_urls": [url for url in urls if isinstance(url, str)]
        if isinstance(urls, list)
        else None,
        "node_threshold": _of_type(
            pruning.get("node_threshold", metadata.get("node_threshold")), int | float
        ),
        "edge_threshold": _of_type(pruning.get("edge_threshold"), int | float),
        "labels": {str(feature): label for feature, label in external_labels(external).items()},
        LEFT_OUT: left_out(external),
    }
    return {
        "scan": external.scan,
        "imported": external.slug,
        **{key: value for key, value in optional.items() if value},
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _of_type(value: Any, kind: Any) -> Any:
    return value if isinstance(value, kind) else None


def explained_by(provenance: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return Neuronpedia's model and source set for the features of an imported graph.

    They come from the graph itself, or else from the registry's entry of its transcoder set; None
    where neither has them.

    >>> explained_by({"source_urls": ["https://neuronpedia.org/gemma-2-2b/clt-hp"]})
    ('gemma-2-2b', 'clt-hp')
    """
    scan, source_set = provenance.get("scan"), provenance.get("source_set")
    if scan and source_set:
        return str(scan), str(source_set)
    urls = provenance.get("source_urls")
    for url in urls if isinstance(urls, list) else []:
        match = _NEURONPEDIA.search(str(url))
        if match:
            return match[1], match[2]
    known = provenance.get("transcoder_set")
    for model in registry(own=False):
        for entry in model.sets:
            if known and entry.reference == known:
                return entry.neuronpedia
    return None


def stored_labels(graph: AttributionGraph) -> dict[FeatureId, str]:
    """Return the labels that an imported graph brought along; empty for a graph traced here.

    Raises :class:`ExternalGraphError` when the provenance has labels in another form.
    """
    stored = graph.provenance.get("labels") or {}
    if not isinstance(stored, Mapping):
        raise ExternalGraphError(
            f"the labels of the graph are a {type(stored).__name__}, expected a mapping from "
            "features to strings: import the graph again"
        )
    labels = {}
    for name, label in stored.items():
        match = _FEATURE.fullmatch(str(name))
        if match is None or not isinstance(label, str):
            raise ExternalGraphError(
                f"the label {short(repr(label))} of {short(repr(name))} is not a string for a "
                "feature such as 'L3/417': import the graph again"
            )
        labels[FeatureId(int(match[1]), int(match[2]))] = label
    return labels
