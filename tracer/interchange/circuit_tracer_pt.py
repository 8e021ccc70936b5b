"""Graphs that circuit-tracer saved as `.pt`, as ours.

Such a file holds the whole unpruned graph as a dense matrix, rows = targets, in the order of our
`NodeIndex`: the selected features, errors layer by layer, tokens, logits. It does not hold the
texts of the prompt's tokens.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tracer.errors import ExternalGraphError
from tracer.graph.graph import AttributionGraph
from tracer.graph.nodes import FloatArray, IntArray, NodeIndex, target_ids
from tracer.interchange.safe_unpickle import LogitRecord, Record, unpack
from tracer.types import Target, TokenProbability

if TYPE_CHECKING:
    import torch

MAX_NODES: Final = 32_768
"""Rows of the matrix; circuit-tracer's default is 7,500 features."""
_ROWS_AT_ONCE: Final = 512
_MOST_NUMBERS: Final = 2**27
"""Of a list; a gigabyte once they are as wide as can be."""
_WORD: Final = re.compile(r"<[^<>\s]+>|\s?\w+|\s?[^\w\s]|\s")
"""A special token, a word or a mark, each with the space before it."""
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

    The texts of the prompt's tokens are ``tokens``, or ``decode`` of their ids (a tokenizer's
    ``lambda token: tokenizer.decode([token])``); without either they are the words of the prompt
    where there are as many, else ``token 1234``. A target whose id lies beyond the vocabulary is a
    direction that somebody chose. What the file does not carry: logits, and the model's other next
    tokens.

    Raises :class:`ExternalGraphError`: see :func:`tracer.interchange.safe_unpickle.unpack`; or a
    key is missing, shapes do not fit together, a number is not finite, an effect comes from no
    lower layer, there are more than `MAX_NODES` nodes.
    """
    name = "the graph" if isinstance(source, bytes) else Path(source).name
    stored = unpack(source)
    for key in _NEEDED:
        if key not in stored:
            raise ExternalGraphError(
                f"{name} has no {key!r}: it is no graph that circuit-tracer's Graph.to_pt wrote"
            )
    n_layers = _count(_fields(stored["cfg"], name).get("n_layers"), "the n_layers", name)
    ids = tuple(_integers(stored["input_tokens"], "input_tokens", name).ravel().tolist())
    if not ids:
        raise ExternalGraphError(f"{name} has an empty prompt")
    n_active, features, activations = _features(stored, n_layers, len(ids), name)
    prompt = _plain(stored.get("input_string"), "input_string", name)
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
        raise ExternalGraphError(f"{name} lists the same feature or target twice")
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
    return ", ".join(filter(None, (_plain(entry, "scan", name) for entry in names))) or "unknown"


def _plain(value: Any, what: str, name: str) -> str:
    """A text, empty where there is none. Nothing else is made one: a few lists that hold each
    other, each twice, are longer as a text than any memory."""
    if value is not None and not isinstance(value, str):
        raise ExternalGraphError(f"{what} of {name} is a {type(value).__name__}, expected a text")
    return value or ""


def _said(value: Any) -> str:
    """What a message repeats of a value."""
    is_short = isinstance(value, str | float) or (type(value) is int and abs(value) < 2**63)
    return repr(value)[:60] if is_short else f"a {type(value).__name__}"


def _count(value: Any, what: str, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_NODES:
        raise ExternalGraphError(
            f"{what} of {name} is {_said(value)}, expected a number from 1 to {MAX_NODES:,}"
        )
    return value


def _tensor(value: Any, what: str, name: str) -> torch.Tensor:
    """A plain tensor that is stored in full: a repeated one would unfold to any size."""
    import torch

    if isinstance(value, list | tuple):
        strange = [entry for entry in value if not isinstance(entry, int | float)]
        if strange:
            raise ExternalGraphError(
                f"{what} of {name} holds no numbers, but a {type(strange[0]).__name__}"
            )
        try:
            value = torch.tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ExternalGraphError(f"{what} of {name} holds no numbers ({error})") from error
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_complex():
        raise ExternalGraphError(f"{what} of {name} is no tensor of numbers")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ExternalGraphError(f"{what} of {name} is larger than what is stored of it")
    return value.detach()


def _listed(value: Any, what: str, name: str) -> torch.Tensor:
    """A tensor of as many numbers as may be made wider."""
    tensor = _tensor(value, what, name)
    if tensor.numel() > _MOST_NUMBERS:
        raise ExternalGraphError(
            f"{what} of {name} has {tensor.numel():,} numbers, at most "
            f"{_MOST_NUMBERS:,} can be read"
        )
    return tensor


def _integers(value: Any, what: str, name: str) -> IntArray:
    tensor = _listed(value, what, name)
    if tensor.is_floating_point() and tensor.numel():
        raise ExternalGraphError(f"{what} of {name} is of {tensor.dtype}, expected whole numbers")
    numbers: IntArray = tensor.long().numpy()
    if numbers.size and not 0 <= numbers.min() <= numbers.max() <= _LARGEST_INDEX:
        raise ExternalGraphError(
            f"{what} of {name} has numbers from {numbers.min()} to {numbers.max()}, expected them "
            f"from 0 to {_LARGEST_INDEX}"
        )
    return numbers


def _numbers(value: Any, what: str, name: str) -> FloatArray:
    numbers: FloatArray = _listed(value, what, name).double().numpy().ravel()
    if not np.isfinite(numbers).all():
        raise ExternalGraphError(f"{what} of {name} has a number that is not finite")
    return numbers


def _features(
    stored: dict[str, Any], n_layers: int, n_positions: int, name: str
) -> tuple[int, IntArray, FloatArray]:
    """How many were active, and of those in the matrix ``(n, 3)`` places and activations.

    The activations are of all active features or, in other versions, of the selected ones.
    """
    active = _integers(stored["active_features"], "active_features", name)
    if active.ndim != 2 or active.shape[1] != 3:
        raise ExternalGraphError(
            f"active_features of {name} has the shape {active.shape}, expected (n, 3): layer, "
            "position, feature"
        )
    if len(active) and not (active[:, 0].max() < n_layers and active[:, 1].max() < n_positions):
        raise ExternalGraphError(
            f"active_features of {name} name layer {active[:, 0].max()} and position "
            f"{active[:, 1].max()}; the model has {n_layers} layers, the prompt {n_positions} "
            "tokens"
        )
    values = _numbers(stored["activation_values"], "activation_values", name)
    chosen = stored.get("selected_features")
    selected = (
        np.arange(len(active))
        if chosen is None
        else _integers(chosen, "selected_features", name).ravel()
    )
    if len(selected) and selected.max() >= len(active):
        raise ExternalGraphError(
            f"selected_features of {name} names feature {selected.max()} of {len(active)} active"
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
        return tuple(_text(token_id, decode) for token_id in ids)
    if len(tokens) != len(ids):
        raise ExternalGraphError(f"{name} has {len(ids)} tokens, {len(tokens)} texts were given")
    return tuple(tokens)


def _text(token_id: int, decode: Callable[[int], str] | None) -> str:
    return f"token {token_id}" if decode is None else decode(token_id)


def _targets(
    stored: dict[str, Any], decode: Callable[[int], str] | None, name: str
) -> tuple[Target, ...]:
    listed = stored.get("logit_targets", stored.get("logit_tokens"))
    if isinstance(listed, list) and all(isinstance(entry, LogitRecord) for entry in listed):
        labels = [_plain(entry.token_str, "a logit target", name) for entry in listed]
        listed = [entry.vocab_idx for entry in listed]
    else:  # older files: a tensor of ids
        labels = []
    if listed is None or not len(listed):
        raise ExternalGraphError(f"{name} has no logit_targets: it explains nothing")
    ids = _integers(listed, "logit_targets", name).ravel().tolist()
    weights = _numbers(stored["logit_probabilities"], "logit_probabilities", name)
    if len(weights) != len(ids) or weights.min() < 0:
        raise ExternalGraphError(
            f"{name} has {len(weights)} logit_probabilities for {len(ids)} targets, expected one "
            "each, none negative"
        )
    vocabulary = stored.get("vocab_size") or _fields(stored["cfg"], name).get("d_vocab")
    limit = _LARGEST_INDEX if vocabulary is None else vocabulary
    if not isinstance(limit, int):
        raise ExternalGraphError(f"vocab_size of {name} is {_said(limit)}, expected a number")
    return tuple(
        Target(
            (labels[place] if labels else "") or _text(token_id, decode),
            (token_id,) if token_id < limit else (),
            float(weights[place]),
        )
        for place, token_id in enumerate(ids)
    )


def _edges(
    stored: Any, index: NodeIndex, order: IntArray, name: str
) -> tuple[IntArray, IntArray, FloatArray]:
    """The matrix as CSR rows in our order, a few hundred rows at a time."""
    matrix = _tensor(stored, "adjacency_matrix", name)
    n_nodes = len(index)
    if tuple(matrix.shape) != (n_nodes, n_nodes):
        raise ExternalGraphError(
            f"adjacency_matrix of {name} has the shape {tuple(matrix.shape)}, expected "
            f"{(n_nodes, n_nodes)}: {index.n_features} features, {index.n_layers} x "
            f"{index.n_positions} errors, {index.n_positions} tokens, {len(index.target_ids)} "
            "targets"
        )
    place = np.r_[order, np.arange(index.n_features, n_nodes)]  # row of ours -> row of theirs
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
                "token: rows must be targets, ordered features, errors, tokens, targets"
            )
        counts += np.bincount(rows, minlength=n_nodes)
        all_sources.append(sources.astype(np.int32))
        all_weights.append(block[rows - start, sources])
    indptr = np.r_[0, np.cumsum(counts)].astype(np.int64)
    return indptr, np.concatenate(all_sources), np.concatenate(all_weights)
