"""`trace`: the attribution graph of a prompt.

Which features are expanded, in which order and in which batches. The numbers themselves come from
:mod:`tracer.attribution.backward`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tracer.attribution.backward import FrozenBackward
from tracer.attribution.edge_rows import EdgeRows
from tracer.attribution.frozen import FrozenPass, frozen_pass
from tracer.attribution.memory import check_decoders, check_forward, plan_walks
from tracer.attribution.rounding import rounding_error
from tracer.attribution.targets import ChosenTargets, choose_targets, next_tokens
from tracer.errors import NoActiveFeaturesError, TracerError
from tracer.graph.graph import AttributionGraph
from tracer.model.chat import is_chat
from tracer.model.failures import as_tracer_errors
from tracer.model.model import Model
from tracer.types import Progress, Prompt, TargetChoice

_SMALLEST_CPU_BATCH: Final = 128
_SMALLEST_ACCELERATOR_BATCH: Final = 512


@dataclass(frozen=True)
class _Options:
    """The options of :func:`trace`, checked."""

    targets: Sequence[TargetChoice] | None
    max_logits: int
    logit_mass: float
    max_features: int | None
    rank_every: int
    batch_size: int | None
    progress: Progress | None
    memory_limit: int | None
    offload: bool

    last_progress: list[tuple[int, int, str]] = field(
        default_factory=lambda: [(0, 0, "running the model")]
    )

    def report(self, done: int, total: int, what: str) -> None:
        """Call ``progress``."""
        self.last_progress[0] = (done, total, what)
        self.checkpoint()

    def checkpoint(self) -> None:
        """Call ``progress`` again, so that it may raise between two layers."""
        if self.progress is not None:
            self.progress(*self.last_progress[0])

    def __post_init__(self) -> None:
        for name, value in (("rank_every", self.rank_every), ("batch_size", self.batch_size)):
            if value is not None and value < 1:
                raise TracerError(f"{name} is {value}: it must be at least 1")
        if self.max_features is not None and self.max_features < 0:
            raise TracerError(
                f"max_features is {self.max_features}: give a number from 0, or None for all"
            )


def trace(
    model: Model,
    prompt: Prompt,
    targets: Sequence[TargetChoice] | None = None,
    max_logits: int = 10,
    logit_mass: float = 0.95,
    max_features: int | None = None,
    rank_every: int = 1024,
    batch_size: int | None = None,
    progress: Progress | None = None,
    memory_limit: int | None = None,
    offload: bool = False,
    force: bool = False,
) -> AttributionGraph:
    """Return the attribution graph of the model's next token after ``prompt``.

    ``prompt`` is a text, token ids, or a chat (``[{"role": "user", "content": "…"}]``), which the
    tokenizer's chat template turns into text. Transcoders that were trained on chats only
    (:attr:`Model.needs_chat`) carry no features at the beginning of other text, so it is refused
    unless ``force`` is given.

    ``targets`` are tokens (text or ids), contrasts, directions or features. None takes the fewest
    likeliest tokens whose probability reaches ``logit_mass``, at most ``max_logits``.

    At most ``max_features`` active features are expanded, the most influential first, ranked anew
    after every ``rank_every`` of them. ``batch_size`` only changes the speed. None takes 256 on the
    CPU, and up to 1,024 on a GPU. It is lowered if memory is short. ``progress`` is called after
    every batch, and again at every layer, and may raise :class:`tracer.errors.Cancelled`.

    ``memory_limit`` (bytes, in addition to the open model) is what the trace may use, None for most
    of what is free. ``offload`` moves weights that backward walks do not need to the CPU meanwhile.
    If a prompt is so long that complete rows would not fit, rows keep their strongest entries
    (:attr:`AttributionGraph.dropped_weight`).

    The options of the model that cost precision (``dtype``, ``forward_dtype``, ``tf32``) are in the
    graph's provenance with the device, and :attr:`AttributionGraph.rounding_error` is what they
    cost on a sample of rows; NaN if memory did not suffice to measure it. On CUDA the last bits of
    a graph vary from run to run, because sums are made by atomic additions; with
    ``torch.use_deterministic_algorithms(True)`` they do not.

    Raises the errors of :meth:`Model.encode` and :func:`tracer.attribution.targets.choose_targets`,
    :class:`NoActiveFeaturesError`, :class:`tracer.errors.MemoryLimitError` before work that would
    not fit or when the device runs out of memory, and :class:`tracer.errors.DeviceLostError`.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> graph = tracer.trace(model, "The capital of the state containing Dallas is")
    >>> graph.next_tokens[0].token
    ' Austin'
    >>> graph.to_dense().shape == (graph.n_nodes, graph.n_nodes)
    True
    """
    options = _Options(
        targets, max_logits, logit_mass, max_features, rank_every, batch_size, progress,
        memory_limit, offload,
    )  # fmt: skip
    token_ids = model.encode(prompt)
    if not force:
        model.check_chat(token_ids)
    advice = "lower max_features or memory_limit, set offload=True, or shorten the prompt"
    with as_tracer_errors(f"tracing {len(token_ids)} tokens", model.device, advice):
        graph = _trace(model, model.prompt_text(prompt), token_ids, options)
    if not is_chat(prompt):
        return graph
    messages = [{key: str(value) for key, value in message.items()} for message in prompt]
    return replace(graph, provenance={**graph.provenance, "messages": messages})


def _trace(
    model: Model, prompt: str, token_ids: tuple[int, ...], options: _Options
) -> AttributionGraph:
    check_forward(model, len(token_ids), options.memory_limit)
    frozen = frozen_pass(model, token_ids, options.checkpoint)
    n_active = len(frozen.features)
    if not n_active:
        raise NoActiveFeaturesError(
            f"no feature is active on these {len(token_ids)} tokens: write more than the "
            "beginning-of-text token, and check that the transcoders belong to the model"
        )
    chosen = choose_targets(model, frozen, options.targets, options.max_logits, options.logit_mass)
    n_expanded = n_active if options.max_features is None else min(options.max_features, n_active)
    check_decoders(model, frozen, options.memory_limit)
    backward = FrozenBackward(model, frozen)
    backward.checkpoint = options.checkpoint
    plan = plan_walks(
        backward, len(chosen.targets), n_expanded, options.batch_size, options.memory_limit
    )
    backward.sources.keep(plan.keep_sources)
    rows = EdgeRows(backward.sources.n_sources, plan.row_share, plan.rows_limit, plan.ranking_limit)
    with model.offloaded(options.offload):
        expanded = _expand(backward, chosen, n_expanded, options, plan.batch_size, rows)
        if model.forward_is_exact:
            error = rounding_error(backward, chosen, expanded, plan.sample_size)
    if not model.forward_is_exact:  # the reference runs the model, which needs all weights
        error = rounding_error(backward, chosen, expanded, plan.sample_size)
    return _package(model, prompt, frozen, chosen, expanded, rows, error, options)


def _expand(
    backward: FrozenBackward,
    chosen: ChosenTargets,
    n_expanded: int,
    options: _Options,
    batch_size: int,
    rows: EdgeRows,
) -> Int[Tensor, " expanded"]:
    """Compute the rows of the targets and of the most influential features; return the latter."""
    features, n_sources = backward.frozen.host_features, backward.sources.n_sources
    n_active, n_targets = len(features), len(chosen.targets)
    total, done = n_targets + n_expanded, 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        options.report(done, total, "direct effects")

    report(0)
    for start in range(0, n_targets, batch_size):
        part = slice(start, min(start + batch_size, n_targets))
        numbers = torch.arange(part.start, part.stop) + n_sources
        probabilities = torch.tensor([t.probability for t in chosen.targets[part]])
        rows.add_targets(numbers, chosen.rows(backward, part), probabilities)
        report(len(numbers))

    on_cpu = backward.model.device.type == "cpu"
    smallest = _SMALLEST_CPU_BATCH if on_cpu else _SMALLEST_ACCELERATOR_BATCH
    visited = torch.zeros(n_active, dtype=torch.bool)
    remaining = n_expanded
    while remaining:
        if n_expanded == n_active:
            pending = torch.arange(n_active)
        else:
            influence = rows.influence()[:n_active]
            ranked = influence.argsort(descending=True, stable=True).cpu()
            pending = ranked[~visited[ranked]][: min(options.rank_every, remaining)]
        for batch in _batches(pending, features, batch_size, smallest):
            targets = features[batch]
            rows.add_features(batch, targets[:, 0].tolist(), backward.on_features(targets))
            report(len(batch))
        visited[pending] = True
        remaining -= len(pending)
    return visited.nonzero()[:, 0]


def _batches(
    rows: Int[Tensor, " rows"],
    features: Int[Tensor, "active 3"],
    batch_size: int,
    smallest: int,
) -> Iterator[Int[Tensor, " batch"]]:
    """Yield batches of up to ``batch_size`` targets at nearby positions, highest layer first.

    A walk carries all positions up to its last target's, so a batch ends where positions have
    grown by a tenth, unless it has fewer than ``smallest`` targets, which would leave the processor
    idle.
    """
    rows = rows[features[rows, 1].argsort(stable=True)]
    positions, start = features[rows, 1].tolist(), 0
    for end in range(1, len(rows) + 1):
        size = end - start
        full = end == len(rows) or size == batch_size
        if not full and size >= smallest:
            full = positions[end] + 1 > 1.1 * (positions[start] + 1)
        if full:
            batch = rows[start:end]
            yield batch[features[batch, 0].argsort(descending=True, stable=True)]
            start = end


def _package(
    model: Model,
    prompt: str,
    frozen: FrozenPass,
    chosen: ChosenTargets,
    expanded: Int[Tensor, " expanded"],
    rows: EdgeRows,
    error: float,
    options: _Options,
) -> AttributionGraph:
    """Renumber the nodes that the graph keeps, and lay the rows out as CSR."""
    n_active = len(frozen.features)
    n_inner = model.n_layers * frozen.n_positions + frozen.n_positions
    n_nodes = len(expanded) + n_inner + len(chosen.targets)
    row_of = np.full(n_active + n_inner + len(chosen.targets), -1, np.int64)
    row_of[expanded.numpy()] = np.arange(len(expanded))
    row_of[n_active:] = np.arange(len(expanded), n_nodes)
    dropped = rows.dropped
    indptr, sources, weights = rows.to_csr(row_of)
    return AttributionGraph(
        prompt=prompt,
        tokens=model.token_strings(frozen.token_ids),
        token_ids=frozen.token_ids,
        n_layers=model.n_layers,
        features=frozen.host_features[expanded].numpy().astype(np.int32).reshape(-1, 3),
        activations=frozen.activations.cpu()[expanded].numpy(),
        targets=chosen.targets,
        indptr=indptr,
        sources=sources,
        weights=weights,
        next_tokens=next_tokens(model, frozen.logits),
        n_active_features=n_active,
        dropped_weight=dropped,
        rounding_error=error,
        provenance={
            "model": model.source.name,
            "transcoders": model.source.transcoders,
            "fingerprint": model.source.fingerprint,
            "revisions": dict(model.source.revisions),
            "scan": model.transcoders.scan,
            "device": model.device_choice.label,
            "dtype": _name(model.bridge.dtype),
            "forward_dtype": _name(model.bridge.forward_dtype),
            "tf32": model.bridge.tf32,
            "deterministic": (
                model.device.type == "cpu" or torch.are_deterministic_algorithms_enabled()
            ),
            "max_logits": options.max_logits,
            "logit_mass": options.logit_mass,
            "max_features": options.max_features,
            "rank_every": options.rank_every,
        },
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
