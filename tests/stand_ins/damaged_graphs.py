"""Graph files that are broken on purpose, one by one or at random, and an independent check."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from random_graphs import random_graph
from safetensors.numpy import load, save

from tracer.graph.graph import AttributionGraph

Arrays = dict[str, np.ndarray]

GRAPH = random_graph(4, n_layers=3, n_pos=4, n_features=20)
CONTENT = GRAPH.to_bytes()


def header_size(content: bytes = CONTENT) -> int:
    """Return where the arrays of a safetensors file begin."""
    return 8 + int(struct.unpack_from("<Q", content)[0])


def parts() -> tuple[dict[str, Any], Arrays]:
    """Return the header and the arrays of the valid file, to be changed at will.

    The checksum is left out: what is changed here is valid or not in itself.
    """
    stored = json.loads(CONTENT[8 : header_size()])
    header = json.loads(stored["__metadata__"]["graph"])
    del header["sha256"]
    return header, load(CONTENT)


def file_of(header: Any, arrays: Arrays) -> bytes:
    """Return a safetensors file with any header, a text or what becomes JSON, and any arrays."""
    text = header if isinstance(header, str) else json.dumps(header)
    contiguous = {name: np.array(array, order="C") for name, array in arrays.items()}
    return bytes(save(contiguous, {"graph": text}))


def raw_file(header: Any, body: bytes = b"") -> bytes:
    """Return a file whose safetensors header is exactly ``header``."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


JUNK: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 3, 0.5, -2.5, 10**30, 2**63, float("nan"), float("inf")),
    *({"labels": 3}, {"labels": {"a": 1}}, {"source_urls": 3}, {"source_urls": ["a"]}),
    *("", "x", "\ud800", "9" * 50, [], [1], [None], [[]], {}, {"a": 1}, ["feature", 0, 1, 2]),
)


def _mutate_json(draw: random.Random) -> bytes:
    """Delete, replace or double one value, anywhere in the header."""
    header, arrays = parts()
    place: Any = header
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw.choice(keys)
        if not isinstance(place[key], dict | list) or not place[key] or draw.random() < 0.4:
            break
        place = place[key]
    action = draw.choice(["delete", "replace", "replace", "text", "double"])
    if action == "delete":
        del place[key]
    elif action == "text":
        place[key] = str(place[key])
    elif action == "double" and isinstance(place, list):
        place.append(place[key])
    else:
        place[key] = draw.choice(JUNK)
    return file_of(header, arrays)


def _mutate_array(draw: random.Random) -> bytes:
    """Change the values, shape or dtype of one array."""
    header, arrays = parts()
    name = draw.choice(sorted(arrays))
    array = arrays[name].copy()
    numbers = [-1, 0, 1, 7, len(array), 2**31 - 1, -(2**31)]
    if array.dtype.kind == "f":
        numbers = [0.0, -1.0, 1e38, float("nan"), float("inf"), float("-inf")]
    changes: list[Callable[[], np.ndarray]] = [
        lambda: array[:-1],
        lambda: array[1:],
        lambda: np.concatenate([array, array[-1:]]),
        lambda: array[::-1],
        lambda: array[None],
        lambda: array.reshape(-1)[:0],
        lambda: np.zeros((), array.dtype),
        lambda: array.astype(draw.choice(["int8", "int32", "int64", "uint32", "float16", "bool"])),
        lambda: array.astype(draw.choice(["float32", "float64", "complex64"])),
    ]
    if draw.random() < 0.5:
        flat = array.reshape(-1)
        flat[draw.randrange(len(flat))] = draw.choice(numbers)
        arrays[name] = array
    elif draw.random() < 0.1:
        del arrays[name]
    else:
        arrays[name] = draw.choice(changes)()
    return file_of(header, arrays)


def _flip(draw: random.Random, start: int, stop: int) -> bytes:
    content = bytearray(CONTENT)
    for _ in range(draw.choice([1, 1, 2, 8])):
        content[draw.randrange(start, stop)] ^= 1 << draw.randrange(8)
    return bytes(content)


def mutated(seed: int) -> bytes:
    """Return the valid file after one random accident."""
    draw = random.Random(seed)
    kind = seed % 6
    if kind == 0:
        return _flip(draw, 0, header_size())
    if kind == 1:
        return _flip(draw, header_size(), len(CONTENT))
    if kind == 2:
        cut = draw.randrange(len(CONTENT))
        return CONTENT[:cut] + draw.choice([b"", bytes(draw.randrange(64)), CONTENT[:cut]])
    if kind == 3:
        return _mutate_array(draw)
    return _mutate_json(draw)


def assert_valid(graph: AttributionGraph) -> None:
    """Check every rule of the format the slow way, node by node and edge by edge."""
    index = graph.index
    assert graph.prompt.encode() is not None
    assert len(graph.tokens) == len(graph.token_ids) >= 1
    assert len(graph.targets) >= 1
    assert all(0 <= target.probability < float("inf") for target in graph.targets)
    assert all(0 <= entry.probability < float("inf") for entry in graph.next_tokens)
    assert graph.n_active_features >= len(graph.features)
    features = [tuple(row) for row in graph.features.tolist()]
    assert features == sorted(set(features))
    for layer, position, feature in features:
        assert 0 <= layer < graph.n_layers and 0 <= position < len(graph.tokens) and feature >= 0
    assert graph.activations.shape == (len(features),)
    assert graph.indptr.shape == (len(index) + 1,) and graph.indptr[0] == 0
    assert graph.sources.shape == graph.weights.shape == (int(graph.indptr[-1]),)
    for row in range(len(index)):
        sources = graph.sources[graph.indptr[row] : graph.indptr[row + 1]].tolist()
        assert sources == sorted(set(sources)) and all(0 <= s < len(index) for s in sources)
        kind, layer = index.node(row).kind, index.node(row).layer
        for source in map(index.node, sources):
            generic = {source.kind, kind} - {"feature", "error", "token", "logit"}
            assert source.layer < layer or (generic and source.layer == layer)
        assert not sources or ("error" not in kind and kind != "token")
    assert np.isfinite(graph.weights).all()
