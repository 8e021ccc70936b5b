"""What can be asked of the backend, and the digests under which the answers are kept.

Two digests, because the graph's own address needs the token ids and those need the model:
`trace_digest` is known before anything is loaded and names the *question*; `graph_key` names the
*graph*. The catalogue maps the first to the second.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import tracer.graph.graph
from tracer.catalog.resolve import ModelSource
from tracer.interventions.scenario import Scenario
from tracer.types import Intervention, NodeId

Dtype = Literal["float32", "bfloat16"]

TRACE_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType(
    {"max_logits": 10, "logit_mass": 0.95, "rank_every": 1024}
)
"""Passed to `tracer.trace` by name, so that the key always states them, defaults included.

The batch size is not among them: it changes the speed, not the graph.
"""

_KEY_DIGITS: Final = 32


@dataclass(frozen=True)
class ModelChoice:
    """A model, one of its transcoder sets and a data type, as `tracer.load` takes them."""

    model: str = "atlas"
    transcoders: str = "per-layer"
    dtype: Dtype = "float32"


@dataclass(frozen=True)
class Published:
    """A dictionary of Neuronpedia's, for graphs that were not traced here."""

    model: str
    source_set: str


def identity(source: ModelSource, choice: ModelChoice) -> str:
    """What the digests below call a fingerprint: the files, and the data type they are read in."""
    plain = choice.dtype == "float32"
    return source.fingerprint if plain else f"{source.fingerprint}-{choice.dtype}"


@dataclass(frozen=True)
class TraceRequest:
    """Trace ``prompt``; ``targets`` are token strings, None for the likeliest next tokens."""

    prompt: str
    choice: ModelChoice = ModelChoice()
    targets: tuple[str, ...] | None = None
    max_features: int | None = None


@dataclass(frozen=True)
class InterveneRequest:
    """Run ``prompt`` with features set to given values, and without."""

    prompt: str
    interventions: tuple[Intervention, ...]
    choice: ModelChoice = ModelChoice()
    freeze_attention: bool = True


@dataclass(frozen=True)
class ScenarioRequest:
    """Run ``prompt`` under every scenario, and without edits, and go on by ``generate`` tokens.

    At a ``temperature`` above 0 they are sampled, with ``seed``.
    """

    prompt: str
    scenarios: tuple[Scenario, ...]
    choice: ModelChoice = ModelChoice()
    generate: int = 0
    watch: tuple[NodeId, ...] = ()
    temperature: float = 0.0
    seed: int = 0


def trace_digest(fingerprint: str, request: TraceRequest) -> str:
    """Name of a question (32 hex digits), from the sources' fingerprint and the prompt's text."""
    return _digest("trace", fingerprint, request.prompt, _trace_options(request))


def graph_key(fingerprint: str, token_ids: Sequence[int], request: TraceRequest) -> str:
    """Address of a graph (32 hex digits): everything that can change its numbers."""
    return _digest("graph", fingerprint, list(token_ids), _trace_options(request))


def intervene_digest(fingerprint: str, request: InterveneRequest) -> str:
    """Name of an intervention (32 hex digits)."""
    edits = [asdict(edit) for edit in request.interventions]
    return _digest("intervene", fingerprint, request.prompt, [edits, request.freeze_attention])


def scenarios_digest(fingerprint: str, request: ScenarioRequest) -> str:
    """Name of a run of scenarios (32 hex digits)."""
    asked = [[s.to_dict() for s in request.scenarios], request.generate, request.watch]
    asked += [request.temperature, request.seed]
    return _digest("scenarios", fingerprint, request.prompt, asked)


def token_digest(fingerprint: str, text: str) -> str:
    """Name of the question which token a text is (32 hex digits)."""
    return _digest("token", fingerprint, text)


def warm_digest(fingerprint: str) -> str:
    """Name of the wish to have a model open (32 hex digits)."""
    return _digest("warm", fingerprint)


def _trace_options(request: TraceRequest) -> dict[str, Any]:
    return {
        **TRACE_OPTIONS,
        "targets": request.targets,
        "max_features": request.max_features,
        "format": tracer.graph.graph.FORMAT_VERSION,
    }


def _digest(*parts: object) -> str:
    text = json.dumps([*parts, method_fingerprint()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]


@lru_cache(maxsize=1)
def method_fingerprint() -> str:
    """Digest of tracer's own code: a corrected formula must not be answered with old numbers.

    A version number would do the same only as long as nobody forgets to raise it. Graphs traced by
    older code stay readable under their keys.
    """
    package = Path(tracer.graph.graph.__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        if inside.parts[0] != "atlas":  # builds weights, which the sources' fingerprint covers
            digest.update(f"{inside.as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()
