"""Where a published graph is from, and what it calls its features. Data only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tracer.errors import ExternalGraphError, short
from tracer.graph.graph import AttributionGraph
from tracer.interchange.explained import explained_by as explained_by
from tracer.interchange.explained import numbering_of
from tracer.interchange.graph_json import ExternalGraph
from tracer.interchange.labels import external_labels as external_labels
from tracer.interchange.marks import external_annotations as external_annotations
from tracer.interchange.marks import with_annotations as with_annotations
from tracer.interchange.notes import LEFT_OUT, left_out
from tracer.interchange.placing import external_index as external_index
from tracer.interchange.placing import external_places as external_places
from tracer.types import FeatureId

_FEATURE: Final = re.compile(r"L([0-9]{1,10})/([0-9]{1,10})")


def origin(external: ExternalGraph) -> dict[str, Any]:
    """Return where a published graph is from, as the provenance of the graph it becomes.

    Always ``imported`` (its slug) and ``scan``; where the file has them ``tool``,
    ``transcoder_set``, ``source_set`` (Neuronpedia's), ``source_urls``, ``feature_address`` and
    ``feature_numbers`` (where the features' own files are, and how they are numbered),
    ``node_threshold`` and ``edge_threshold``; ``labels`` by ``str(FeatureId)``, and ``left_out``,
    the counts of :func:`tracer.interchange.notes.left_out`. A value of another type than expected
    is left out.
    """
    metadata = external.metadata
    info, pruning, details = (
        _mapping(metadata.get(key)) for key in ("info", "pruning_settings", "feature_details")
    )
    generator, urls = _mapping(info.get("generator")), info.get("source_urls")
    address = _of_type(details.get("feature_json_base_url"), str)
    tool = (generator.get(key) for key in ("name", "version"))
    optional: dict[str, Any] = {
        "tool": " ".join(str(part) for part in tool if isinstance(part, str | int | float)),
        "transcoder_set": _of_type(info.get("transcoder_set"), str),
        "source_set": _of_type(details.get("neuronpedia_source_set"), str)
        or _of_type(info.get("neuronpedia_source_set"), str),
        "feature_address": address,
        "feature_numbers": numbering_of(external) if address else None,
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
