"""The file form of a graph: one safetensors file, checked before anything relies on it.

The arrays are stored as tensors, everything else as JSON in the file's metadata. This module knows
the layout and what makes a file valid; :class:`tracer.graph.graph.AttributionGraph` is built from
what it returns.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open

from tracer.errors import GraphFileError, one_line, short
from tracer.graph.nodes import IntArray, NodeIndex, target_ids
from tracer.graph.order import node_depths, on_a_circle, runs_backward
from tracer.graph.stored_generic import (
    Stored,
    StoredGeneric,
    StoredQk,
    generic_nodes,
    generic_problems,
)

FORMAT_VERSION: Final = 1
GENERIC_VERSION: Final = 2
"""The version of a file with generic nodes, whose rows older readers would misplace."""
MAX_LAYERS: Final = 4096
"""No known model is deeper; influence is computed layer by layer, so a false count would hang."""
ARRAYS: Final = ("features", "activations", "indptr", "sources", "weights")
_INTEGERS, _FLOATS = ("I32", "I64"), ("F32", "F64")
_DTYPES: Final = dict.fromkeys(ARRAYS, _INTEGERS) | {"activations": _FLOATS, "weights": _FLOATS}

_CHECKSUM: Final = re.compile(r', "sha256": "([^"]*)"\}$')

_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""A vocabulary id; negative for a target that is not a single token."""
_Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class StoredTarget(Stored):
    """One :class:`tracer.types.Target` in the header."""

    label: str
    token_ids: Annotated[tuple[_Id, ...], Field(max_length=2)]
    probability: _Weight
    feature: tuple[Literal["feature"], _Count, _Count, _Count] | None = None
    """Kind, layer, position and index of the explained feature, when the target is one."""


class _Version(Stored):
    format_version: int


class _Provenance(Stored):
    """The provenance that imported graphs have; what others have is only shown as text."""

    labels: dict[Annotated[str, Field(pattern=r"^L[0-9]{1,10}/[0-9]{1,10}$")], str] = Field(
        default_factory=dict
    )
    source_urls: list[str] = Field(default_factory=list)


class Header(Stored):
    """Everything in a graph file except the arrays."""

    prompt: str
    tokens: Annotated[tuple[str, ...], Field(min_length=1)]
    token_ids: tuple[_Id, ...]
    n_layers: Annotated[int, Field(ge=0, le=MAX_LAYERS)]
    targets: Annotated[tuple[StoredTarget, ...], Field(min_length=1)]
    next_tokens: tuple[tuple[str, _Id, _Weight, float], ...]
    """Token, id, probability and logit; the logit is NaN in graphs of other tools."""
    n_active_features: _Count
    dropped_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    rounding_error: _Weight | None = 0.0
    """None if it was not measured."""
    provenance: dict[str, Any]
    generic: tuple[StoredGeneric, ...] = ()
    qk: StoredQk = StoredQk()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the JSON of a header; raises ``ValueError`` with one sentence for anything else."""
        try:
            version = _Version.model_validate_json(text).format_version
            if version not in (FORMAT_VERSION, GENERIC_VERSION):
                raise ValueError(
                    f"it has format version {version}, this library reads versions "
                    f"{FORMAT_VERSION} and {GENERIC_VERSION}"
                )
            header = cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(_first_problem(error)) from error
        try:
            _Provenance.model_validate(header.provenance)
        except ValidationError as error:
            raise ValueError(_first_problem(error, "provenance.")) from error
        return header


def read_graph_file(path: str | os.PathLike[str]) -> tuple[Header, dict[str, Any]]:
    """Read a graph file and check that its parts fit together.

    Returns the header and the arrays by the names in `ARRAYS`. Raises :class:`GraphFileError` for a
    file that cannot be read, and for one that is not a valid graph.
    """
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get("graph", "")
            header = Header.parse(text)
            stored = set(file.keys())
            for name in ARRAYS:
                if name not in stored:
                    raise ValueError(f"it has no array {name!r}")
                _check_dtype(name, file.get_slice(name).get_dtype())
            arrays = {name: file.get_tensor(name) for name in ARRAYS}
        problem = next(_problems(header, arrays), None) or _checksum_problem(text, arrays)
    except OSError as error:
        reason = _reason(Path(path), error)
        raise GraphFileError(f"{path} cannot be read ({reason}): check the path") from error
    except (SafetensorError, ValueError) as error:
        problem = one_line(error).removeprefix("Error while deserializing header: ")
        raise GraphFileError(_sentence(path, problem)) from error
    if problem is not None:
        raise GraphFileError(_sentence(path, problem))
    return header, arrays


def with_checksum(header: str, arrays: Mapping[str, Any]) -> str:
    """Return the JSON of a header with the checksum of itself and the arrays as its last entry.

    It is inside the header because safetensors keeps several metadata entries in any order.
    """
    return f'{header[:-1]}, "sha256": "{_checksum(header, arrays)}"}}'


def _checksum(header: str, arrays: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in ARRAYS:
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"\0{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _checksum_problem(text: str, arrays: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the checksum in a header; files of older versions have none."""
    stored = _CHECKSUM.search(text)
    if stored is None or stored[1] == _checksum(f"{text[: stored.start()]}}}", arrays):
        return None
    return "its content does not match its checksum"


def _sentence(path: str | os.PathLike[str], problem: str) -> str:
    return f"{path} is not a valid graph file ({problem}): trace or import the graph again"


def _reason(path: Path, error: OSError) -> str:
    with suppress(OSError):  # the name is too long
        if path.is_dir():
            return "it is a directory"
    return "it does not exist" if isinstance(error, FileNotFoundError) else one_line(error)


def _first_problem(error: ValidationError, within: str = "") -> str:
    """Return the first complaint, e.g. "its header's n_layers is 'x', expected a valid integer"."""
    first = error.errors(include_url=False)[0]
    place = short(within + ".".join(str(part) for part in first["loc"]))
    if first["type"] == "missing":
        return f"its header has no {place!r}"
    if first["type"] == "json_invalid":
        return f"its header is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
    expected = first["msg"].partition(" should be ")[2] or first["msg"]
    what = f"its header's {place}" if place else "its header"
    return f"{what} is {short(repr(first['input']))}, expected {expected}"


def _check_dtype(name: str, dtype: str) -> None:
    if dtype not in _DTYPES[name]:
        raise ValueError(f"{name} has dtype {dtype}, expected {' or '.join(_DTYPES[name])}")


def _problems(header: Header, arrays: dict[str, Any]) -> Iterator[str]:
    """Yield what does not fit together; each check relies on those before it.

    Only a handful of passes run over the edges, a fraction of the time it takes to read them.
    """
    features, indptr, sources = arrays["features"], arrays["indptr"], arrays["sources"]
    n_positions = len(header.tokens)
    if len(header.token_ids) != n_positions:
        yield f"it has {len(header.token_ids)} token ids for {n_positions} tokens"
    if features.ndim != 2 or features.shape[1] != 3:
        yield f"features has shape {features.shape}, expected (n_features, 3)"
    if header.n_active_features < len(features):
        yield f"it has {len(features)} features, but n_active_features is " + str(
            header.n_active_features
        )
    places = [target.feature[1:] for target in header.targets if target.feature]
    for name, table in (("features", features), ("the targets", np.array(places).reshape(-1, 3))):
        yield from _feature_problems(name, table, header.n_layers, n_positions)
    yield from _order_problems(features)
    targets = target_ids(target.token_ids for target in header.targets)
    generic = generic_nodes(header.generic)
    index = NodeIndex(features, header.n_layers, header.token_ids, targets, generic)
    yield from generic_problems(index, header.qk)
    if sources.ndim != 1:
        yield f"sources has shape {sources.shape}, expected (n_edges,)"
    expected = {
        "activations": (len(features),),
        "indptr": (len(index) + 1,),
        "weights": sources.shape,
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            yield f"{name} has shape {arrays[name].shape}, expected {shape}"
    if np.isinf(arrays["activations"]).any():
        yield "activations has an infinite value"
    yield from _row_problems(index, indptr, len(sources))
    yield from _source_problems(index, indptr, sources)
    if not np.isfinite(arrays["weights"]).all():
        edge = int(np.flatnonzero(~np.isfinite(arrays["weights"]))[0])
        yield f"weights is {arrays['weights'][edge]} at edge {edge}, expected finite numbers"


def _feature_problems(
    name: str, features: IntArray, n_layers: int, n_positions: int
) -> Iterator[str]:
    limits = np.array([n_layers, n_positions, 2**31])
    outside = np.flatnonzero(((features < 0) | (features >= limits)).any(axis=1))
    if len(outside):
        layer, position, feature = features[outside[0]].tolist()
        yield (
            f"{name} names feature {feature} of layer {layer} at position {position}, expected "
            f"{n_layers} layers and {n_positions} positions, counted from 0"
        )


def _order_problems(features: IntArray) -> Iterator[str]:
    later, earlier = features[1:], features[:-1]
    deciding = (later != earlier).argmax(axis=1)[:, None]  # the first column that differs
    wrong = np.flatnonzero(~np.take_along_axis(later > earlier, deciding, axis=1))
    if len(wrong):
        left, right = earlier[wrong[0]].tolist(), later[wrong[0]].tolist()
        yield f"features has {right} after {left}, expected ascending rows without repeats"


def _row_problems(index: NodeIndex, indptr: IntArray, n_edges: int) -> Iterator[str]:
    if indptr[0] != 0 or indptr[-1] != n_edges:
        yield (
            f"indptr runs from {indptr[0]} to {indptr[-1]}, expected 0 to {n_edges}, the number of "
            "edges"
        )
    falling = np.flatnonzero(indptr[1:] < indptr[:-1])
    if len(falling):
        row = int(falling[0])
        yield f"indptr falls from {indptr[row]} to {indptr[row + 1]} at row {row}"
    if indptr[index.error_rows.start] != indptr[index.token_rows.stop]:
        yield "its errors or tokens have inputs, expected none"
    filled = indptr[1:] > indptr[:-1]
    for row, node in enumerate(index.generic, index.n_features):
        if filled[row] and node.is_error:
            yield f"its error {node.node} has inputs, expected none"


def _source_problems(index: NodeIndex, indptr: IntArray, sources: IntArray) -> Iterator[str]:
    """Yield a row whose sources are not ascending, in range and of lower layers than the row."""
    ascending = sources[1:] > sources[:-1]
    starts = indptr[1:-1]
    ascending[starts[(starts > 0) & (starts < len(sources))] - 1] = True  # between two rows
    if not ascending.all():
        edge = int(np.flatnonzero(~ascending)[0])
        row = int(np.searchsorted(indptr, edge, "right")) - 1
        yield f"the sources of row {row} are not ascending without repeats"
    filled = np.flatnonzero(indptr[1:] > indptr[:-1])
    smallest, largest = sources[indptr[filled]], sources[indptr[filled + 1] - 1]
    for ends, outside in ((smallest, smallest < 0), (largest, largest >= len(index))):
        if outside.any():
            place = int(outside.argmax())
            yield (
                f"row {filled[place]} has the source {ends[place]}, expected 0 to {len(index) - 1}"
            )
    has_logit = bool((largest >= index.logit_rows.start).any())
    if not index.generic and not has_logit and not _has_effects_downward(index, indptr, sources):
        return
    rows = np.repeat(np.arange(len(index)), np.diff(indptr))
    backward = np.flatnonzero(runs_backward(index, rows, sources))
    if len(backward):
        edge = int(backward[0])
        source, target = index.node(int(sources[edge])), index.node(int(rows[edge]))
        yield f"it has an effect of {source} on {target}, expected sources in lower layers"
    circle = on_a_circle(node_depths(len(index), rows, sources), rows, sources)
    if circle >= 0:
        yield f"its effects run in a circle through {index.node(circle)}, expected none to return"


def _has_effects_downward(index: NodeIndex, indptr: IntArray, sources: IntArray) -> bool:
    """Return whether a source, a row from 0 to the tokens', is not in a layer below its target's.

    For graphs without generic nodes. Features, and so the rows that have entries, are ordered by
    layer. The entries of one layer are therefore one slice, and must not name features or errors of
    that layer or above: two ranges of rows. Subtracting unsigned numbers tests a range with one
    comparison.
    """
    unsigned = sources.view(f"u{sources.dtype.itemsize}")
    ends = np.searchsorted(index.features[:, 0], np.arange(index.n_layers + 1)).tolist()
    slices = indptr[[*ends, len(index)]].tolist()
    for layer, first_feature in enumerate(ends):
        part = unsigned[slices[layer] : slices[layer + 1]]
        first_error = index.n_features + layer * index.n_positions
        for start, stop in (
            (first_feature, index.n_features),
            (first_error, index.token_rows.start),
        ):
            if start < stop and bool((part - start < stop - start).any()):
                return True
    return False
