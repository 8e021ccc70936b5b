"""Read the graphs that circuit-tracer saves as `.pt`.

Such a file has the unpruned graph as a dense matrix, rows = targets, in the order of
:class:`tracer.graph.nodes.NodeIndex`: selected features, errors layer by layer, tokens, logits. It
does not have the strings of the prompt's tokens.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tracer.errors import ExternalGraphError, one_line
from tracer.graph.graph import AttributionGraph
from tracer.graph.graph_file import MAX_LAYERS
from tracer.graph.nodes import FloatArray, IntArray, NodeIndex, target_ids
from tracer.interchange.safe_unpickle import LogitRecord, Record, unpack
from tracer.types import Target, TokenProbability

if TYPE_CHECKING:
    import torch

MAX_NODES: Final = 32_768
"""The most rows of the matrix; circuit-tracer's default is 7,500 features."""
_ROWS_AT_ONCE: Final = 512
_MOST_NUMBERS: Final = 2**27
"""The most numbers in a list: a gigabyte as int64 or float64."""
_WORD: Final = re.compile(r"<[^<>\s]+>|\s?\w+|\s?[^\w\s]|\s")
"""A special token, a word or a punctuation mark, each with the space before it."""
_LARGEST_INDEX: Final = 2**31 - 1
_NEEDED: Final = (
    "adjacency_matrix",
    "active_features",
    "activation_values",
    "input_tokens",
    "logit_probabilities",
    "cfg",
)


def read_graph_pt(
    source: str | os.PathLike[str] | bytes,
    decode: Callable[[int], str] | None = None,
    tokens: Sequence[str] | None = None,
) -> AttributionGraph:
    """Read what circuit-tracer's ``Graph.to_pt`` wrote (0.3 to 0.5), from a file or its bytes.

    The file has the ids of the prompt's tokens, not their strings. These are ``tokens``, or what
    ``decode`` returns for each id (for a tokenizer ``lambda token: tokenizer.decode([token])``).
    Without either they are the words of the prompt if the counts match, otherwise ``token 1234``. A
    target whose id is beyond the vocabulary is a custom direction. The file has no logits (they
    become NaN), and no next tokens besides the targets.

    Raises :class:`ExternalGraphError` for a file that
    :func:`tracer.interchange.safe_unpickle.unpack` refuses, and when a key is missing, shapes do
    not fit together, a number is not finite, an effect does not come from a lower layer, or there
    are more than `MAX_NODES` nodes.

    >>> import io, torch
    >>> features, errors, tokens, logits = 1, 2, 2, 1
    >>> matrix = torch.zeros(6, 6)
    >>> matrix[0, 4] = 2.5  # the last token on the feature
    >>> matrix[5, 0] = -1.0  # the feature on the logit
    >>> file = io.BytesIO()
    >>> torch.save({
    ...     "cfg": {"n_layers": 1}, "input_tokens": torch.tensor([1, 7]), "input_string": "hot dog",
    ...     "active_features": torch.tensor([[0, 1, 30]]), "activation_values": torch.ones(1),
    ...     "logit_targets": torch.tensor([9]), "logit_probabilities": torch.tensor([0.5]),
    ...     "adjacency_matrix": matrix,
    ... }, file)
    >>> graph = read_graph_pt(file.getvalue())
    >>> graph.tokens, graph.features.tolist(), graph.weights.tolist()
    (('hot', ' dog'), [[0, 1, 30]], [2.5, -1.0])
    """
    name = "the graph" if isinstance(source, bytes) else Path(source).name
    stored = unpack(source)
    for key in _NEEDED:
        if key not in stored:
            raise ExternalGraphError(
                f"{name} has no {key!r}: it was not written by circuit-tracer's Graph.to_pt"
            )
    n_layers = _layer_count(_fields(stored["cfg"], name).get("n_layers"), name)
    ids = tuple(_integers(stored["input_tokens"], "input_tokens", name).ravel().tolist())
    if not ids:
        raise ExternalGraphError(f"{name} has an empty prompt")
    n_active, features, activations = _features(stored, n_layers, len(ids), name)
    prompt = _string(stored.get("input_string"), "input_string", name)
    texts = _token_texts(ids, prompt, decode, tokens, name)
    targets = _targets(stored, decode, name)
    order = np.lexsort((features[:, 2], features[:, 1], features[:, 0]))
    logits = target_ids(target.token_ids for target in targets)
    index = NodeIndex(features[order].astype(np.int32), n_layers, ids, logits)
    if len(index) > MAX_NODES:
        raise ExternalGraphError(
            f"{name} has {len(index):,} nodes, at most {MAX_NODES:,} can be read: trace with fewer "
            "features"
        )
    if len(index) != len({index.node(row) for row in range(len(index))}):
        raise ExternalGraphError(f"{name} has the same feature or target twice")
    indptr, sources, weights = _edges(stored["adjacency_matrix"], index, order, name)
    return AttributionGraph(
        prompt=prompt or "".join(texts),
        tokens=texts,
        token_ids=ids,
        n_layers=n_layers,
        features=index.features,
        activations=activations[order].astype(np.float32),
        targets=targets,
        indptr=indptr,
        sources=sources,
        weights=weights,
        next_tokens=tuple(
            TokenProbability(target.label, token_id, target.probability, math.nan)
            for target, token_id in zip(targets, logits, strict=True)
        ),
        n_active_features=n_active,
        provenance={
            "scan": _scan(stored.get("scan"), name),
            "tool": "circuit-tracer",
            "unpruned": True,
        },
    )


def _fields(stored: Any, name: str) -> dict[str, Any]:
    if isinstance(stored, Record):
        return stored.fields
    if isinstance(stored, dict):
        return stored
    raise ExternalGraphError(
        f"cfg of {name} is a {type(stored).__name__}, expected a configuration"
    )


def _scan(stored: Any, name: str) -> str:
    names = stored if isinstance(stored, list | tuple) else [stored]
    return ", ".join(filter(None, (_string(entry, "scan", name) for entry in names))) or "unknown"


def _string(value: Any, what: str, name: str) -> str:
    """Return a string, empty for None.

    Nothing else is converted: a few lists that contain each other twice would become a string
    longer than any memory.
    """
    if value is not None and not isinstance(value, str):
        raise ExternalGraphError(f"{what} of {name} is a {type(value).__name__}, expected a string")
    try:
        (value or "").encode()
    except UnicodeEncodeError as error:
        raise ExternalGraphError(f"{what} of {name} is not valid Unicode: {error}") from error
    return value or ""


def _shown(value: Any) -> str:
    """Return what a message repeats of a value."""
    is_short = isinstance(value, str | float) or (type(value) is int and abs(value) < 2**63)
    return repr(value)[:60] if is_short else f"a {type(value).__name__}"


def _layer_count(value: Any, name: str) -> int:
    if type(value) is not int or not 0 < value <= MAX_LAYERS:
        raise ExternalGraphError(
            f"n_layers of {name} is {_shown(value)}, expected a number from 1 to {MAX_LAYERS:,}"
        )
    return value


def _tensor(value: Any, what: str, name: str) -> torch.Tensor:
    """Return a plain tensor that is stored in full: an expanded one could be of any size."""
    import torch

    if isinstance(value, list | tuple):
        others = [entry for entry in value if not isinstance(entry, int | float)]
        if others:
            raise ExternalGraphError(
                f"{what} of {name} has a {type(others[0]).__name__} in it, expected numbers"
            )
        try:
            value = torch.tensor(value)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ExternalGraphError(
                f"{what} of {name} cannot be read as numbers ({one_line(error)})"
            ) from error
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_complex():
        raise ExternalGraphError(f"{what} of {name} is not a tensor of real numbers")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ExternalGraphError(f"{what} of {name} has a larger shape than data")
    return value.detach()


def _list_of_numbers(value: Any, what: str, name: str) -> torch.Tensor:
    """Return a tensor small enough to be converted to 64-bit numbers."""
    tensor = _tensor(value, what, name)
    if tensor.numel() > _MOST_NUMBERS:
        raise ExternalGraphError(
            f"{what} of {name} has {tensor.numel():,} numbers, at most {_MOST_NUMBERS:,} can be "
            "read"
        )
    return tensor


def _integers(value: Any, what: str, name: str) -> IntArray:
    tensor = _list_of_numbers(value, what, name)
    if tensor.is_floating_point() and tensor.numel():
        raise ExternalGraphError(f"{what} of {name} has dtype {tensor.dtype}, expected integers")
    numbers: IntArray = tensor.long().numpy()
    if numbers.size and not 0 <= numbers.min() <= numbers.max() <= _LARGEST_INDEX:
        raise ExternalGraphError(
            f"{what} of {name} has numbers from {numbers.min()} to {numbers.max()}, expected 0 to "
            f"{_LARGEST_INDEX}"
        )
    return numbers


def _floats(value: Any, what: str, name: str) -> FloatArray:
    numbers: FloatArray = _list_of_numbers(value, what, name).double().numpy().ravel()
    if not (np.abs(numbers) <= np.finfo(np.float32).max).all():
        raise ExternalGraphError(f"{what} of {name} has a number that is not finite in float32")
    return numbers


def _features(
    stored: dict[str, Any], n_layers: int, n_positions: int, name: str
) -> tuple[int, IntArray, FloatArray]:
    """Return how many features are active, and ``(n, 3)`` and ``(n,)`` for those in the matrix.

    The file has the activations of all active features or, in some versions, of the selected ones.
    """
    active = _integers(stored["active_features"], "active_features", name)
    if active.ndim != 2 or active.shape[1] != 3:
        raise ExternalGraphError(
            f"active_features of {name} has shape {active.shape}, expected (n, 3): layer, "
            "position, feature"
        )
    if len(active) and not (active[:, 0].max() < n_layers and active[:, 1].max() < n_positions):
        raise ExternalGraphError(
            f"active_features of {name} goes up to layer {active[:, 0].max()} and position "
            f"{active[:, 1].max()}, but the model has {n_layers} layers and the prompt "
            f"{n_positions} tokens, counted from 0"
        )
    values = _floats(stored["activation_values"], "activation_values", name)
    chosen = stored.get("selected_features")
    selected = (
        np.arange(len(active))
        if chosen is None
        else _integers(chosen, "selected_features", name).ravel()
    )
    if len(selected) and selected.max() >= len(active):
        raise ExternalGraphError(
            f"selected_features of {name} goes up to {selected.max()}, but there are "
            f"{len(active)} active features, counted from 0"
        )
    if len(values) == len(active):
        values = values[selected]
    if len(values) != len(selected):
        raise ExternalGraphError(
            f"{name} has {len(values)} activations for {len(selected)} selected features"
        )
    return len(active), active[selected], values


def _token_texts(
    ids: tuple[int, ...],
    prompt: str,
    decode: Callable[[int], str] | None,
    tokens: Sequence[str] | None,
    name: str,
) -> tuple[str, ...]:
    if tokens is None:
        words = _WORD.findall(prompt)
        if decode is None and len(words) == len(ids) and "".join(words) == prompt:
            return tuple(words)
        return tuple(_token_text(token_id, decode) for token_id in ids)
    if len(tokens) != len(ids):
        raise ExternalGraphError(
            f"{name} has {len(ids)} tokens, but {len(tokens)} strings were given"
        )
    return tuple(tokens)


def _token_text(token_id: int, decode: Callable[[int], str] | None) -> str:
    return f"token {token_id}" if decode is None else decode(token_id)


def _targets(
    stored: dict[str, Any], decode: Callable[[int], str] | None, name: str
) -> tuple[Target, ...]:
    listed = stored.get("logit_targets", stored.get("logit_tokens"))
    labels: list[str] = []  # older files have a tensor of ids
    if isinstance(listed, list) and all(isinstance(entry, LogitRecord) for entry in listed):
        labels = [_string(entry.token_str, "a logit target", name) for entry in listed]
        listed = [entry.vocab_idx for entry in listed]
    ids = [] if listed is None else _integers(listed, "logit_targets", name).ravel().tolist()
    if not ids:
        raise ExternalGraphError(f"{name} has no logit_targets, expected at least one")
    weights = _floats(stored["logit_probabilities"], "logit_probabilities", name)
    if len(weights) != len(ids) or weights.min() < 0:
        raise ExternalGraphError(
            f"{name} has {len(weights)} logit_probabilities for {len(ids)} targets, expected one "
            "each and none negative"
        )
    vocabulary = stored.get("vocab_size")
    if vocabulary is None:
        vocabulary = _fields(stored["cfg"], name).get("d_vocab")
    if vocabulary is None:
        vocabulary = _LARGEST_INDEX
    if type(vocabulary) is not int:
        raise ExternalGraphError(
            f"vocab_size of {name} is {_shown(vocabulary)}, expected an integer"
        )
    return tuple(
        Target(
            (labels[place] if labels else "") or _token_text(token_id, decode),
            (token_id,) if token_id < vocabulary else (),
            float(weights[place]),
        )
        for place, token_id in enumerate(ids)
    )


def _edges(
    stored: Any, index: NodeIndex, order: IntArray, name: str
) -> tuple[IntArray, IntArray, FloatArray]:
    """Return the matrix as CSR rows in the order of ``index``, converted some rows at a time."""
    matrix = _tensor(stored, "adjacency_matrix", name)
    n_nodes = len(index)
    if tuple(matrix.shape) != (n_nodes, n_nodes):
        raise ExternalGraphError(
            f"adjacency_matrix of {name} has shape {tuple(matrix.shape)}, expected "
            f"{(n_nodes, n_nodes)}: {index.n_features} features, {index.n_layers} x "
            f"{index.n_positions} errors, {index.n_positions} tokens, {len(index.target_ids)} "
            "targets"
        )
    place = np.r_[
        order, np.arange(index.n_features, n_nodes)
    ]  # row of the graph -> row of the file
    counts = np.zeros(n_nodes, np.int64)
    all_sources, all_weights = [], []
    for start in range(0, n_nodes, _ROWS_AT_ONCE):
        block = matrix[place[start : start + _ROWS_AT_ONCE]].float().numpy()
        if not np.isfinite(block).all():
            raise ExternalGraphError(f"adjacency_matrix of {name} has a number that is not finite")
        block = block[:, place]
        rows, sources = np.nonzero(block)
        rows = rows + start
        on_errors = (rows >= index.error_rows.start) & (rows < index.error_rows.stop)
        if on_errors.any() or (index.layers[sources] >= index.layers[rows]).any():
            raise ExternalGraphError(
                f"adjacency_matrix of {name} has an effect that runs downward, or on an error or "
                "token, expected rows of targets in the order features, errors, tokens, logits"
            )
        counts += np.bincount(rows, minlength=n_nodes)
        all_sources.append(sources.astype(np.int32))
        all_weights.append(block[rows - start, sources])
    indptr = np.r_[0, np.cumsum(counts)].astype(np.int64)
    return indptr, np.concatenate(all_sources), np.concatenate(all_weights)
