"""Requests to the backend, and the digests under which their answers are kept.

A trace has two digests, because the key of a graph needs the token ids and those need the model.
`trace_digest` names the *request* and is known before anything is loaded; `graph_key` names the
*graph*. The catalogue maps the first to the second.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

import tracer.graph.graph
from cache.method import INTERVENTION_ROOMS, method_fingerprint
from tracer.catalog.resolve import ModelSource
from tracer.interventions.scenario import Scenario
from tracer.types import Intervention, NodeId, TargetChoice

Dtype = Literal["float32", "bfloat16"]

TRACE_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType(
    {"max_logits": 10, "logit_mass": 0.95, "rank_every": 1024}
)
"""Passed to `tracer.trace` by name, so that the key always holds them, even the defaults.

The batch size is not one of them: it changes the speed, not the graph.
"""

_KEY_DIGITS: Final = 32


@dataclass(frozen=True)
class ModelChoice:
    """A model, one of its transcoder sets and a data type, as `tracer.load` accepts them."""

    model: str = "atlas"
    transcoders: str = "per-layer"
    dtype: Dtype = "float32"


def identity(source: ModelSource, choice: ModelChoice) -> str:
    """Return the fingerprint that digests start from: the files and their data type.

    Not the device: see :mod:`cache.method`.
    """
    plain = choice.dtype == "float32"
    return source.fingerprint if plain else f"{source.fingerprint}-{choice.dtype}"


@dataclass(frozen=True)
class TraceRequest:
    """Trace ``prompt``; ``targets`` are None for the likeliest next tokens, which together reach
    ``logit_mass``."""

    prompt: str
    choice: ModelChoice = ModelChoice()
    targets: tuple[TargetChoice, ...] | None = None
    max_features: int | None = None
    logit_mass: float = 0.95
    force: bool = False
    """Whether to trace plain text although the transcoders were trained on chats only."""


@dataclass(frozen=True)
class InterveneRequest:
    """Run ``prompt`` with features set to given values, and without."""

    prompt: str
    interventions: tuple[Intervention, ...]
    choice: ModelChoice = ModelChoice()
    freeze_attention: bool = True


@dataclass(frozen=True)
class ScenarioRequest:
    """Run ``prompt`` under every scenario and without edits, and generate ``generate`` tokens.

    At a ``temperature`` above 0 the tokens are sampled, with ``seed``.
    """

    prompt: str
    scenarios: tuple[Scenario, ...]
    choice: ModelChoice = ModelChoice()
    generate: int = 0
    watch: tuple[NodeId, ...] = ()
    temperature: float = 0.0
    seed: int = 0


def trace_digest(fingerprint: str, request: TraceRequest) -> str:
    """Name a request to trace (32 hex digits), by the files and the text of the prompt."""
    return digest("trace", fingerprint, request.prompt, _trace_options(request))


def graph_key(fingerprint: str, token_ids: Sequence[int], request: TraceRequest) -> str:
    """Return the key of a graph (32 hex digits): a digest of all that can change its numbers."""
    return digest("graph", fingerprint, list(token_ids), _trace_options(request))


def intervene_digest(fingerprint: str, request: InterveneRequest) -> str:
    """Name an intervention (32 hex digits)."""
    edits = [asdict(edit) for edit in request.interventions]
    options = [edits, request.freeze_attention, method_fingerprint(INTERVENTION_ROOMS)]
    return digest("intervene", fingerprint, request.prompt, options)


def scenarios_digest(fingerprint: str, request: ScenarioRequest) -> str:
    """Name a run of scenarios (32 hex digits)."""
    options = [
        [scenario.to_dict() for scenario in request.scenarios],
        request.generate,
        request.watch,
        request.temperature,
        request.seed,
        method_fingerprint(INTERVENTION_ROOMS),
    ]
    return digest("scenarios", fingerprint, request.prompt, options)


def token_digest(fingerprint: str, text: str) -> str:
    """Name a request for the token of a text (32 hex digits)."""
    return digest("token", fingerprint, text)


def warm_digest(fingerprint: str) -> str:
    """Name a request to open a model (32 hex digits)."""
    return digest("warm", fingerprint)


def _trace_options(request: TraceRequest) -> dict[str, Any]:
    return {
        **TRACE_OPTIONS,
        "logit_mass": request.logit_mass,
        "targets": None if request.targets is None else [_named(t) for t in request.targets],
        "max_features": request.max_features,
        "format": tracer.graph.graph.FORMAT_VERSION,
        "method": method_fingerprint(),
        # Not part of other requests, so that graphs stored before it existed keep their keys.
        **({"force": True} if request.force else {}),
    }


def _named(target: TargetChoice) -> object:
    """Return a target in JSON: a text as it is, everything else with the name of its type."""
    if isinstance(target, str | int):
        return target
    return {"type": type(target).__name__, **asdict(target)}


def digest(*parts: object) -> str:
    """Return 32 hexadecimal digits that name ``parts``, which JSON can hold."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]
