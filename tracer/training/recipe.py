"""The options that determine a trained set, apart from model and text. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from tracer.errors import TrainingError

Kind = Literal["per-layer", "cross-layer"]
ActivationName = Literal["jumprelu", "topk"]

KINDS: Final[tuple[Kind, ...]] = ("per-layer", "cross-layer")
ACTIVATIONS: Final[tuple[ActivationName, ...]] = ("jumprelu", "topk")
_WIDTH_OF_RATE: Final = 128
_RATE: Final = 2e-3


@dataclass(frozen=True)
class Recipe:
    """The shape of the features and the schedule they are trained on.

    ``l0`` counts active features per token over all layers. Training begins with ``l0_first`` of
    them and anneals to ``l0`` geometrically during the first ``anneal_until`` of the tokens, so
    that every feature finds a use while the budget is large. The last ``finetune_share`` of the
    tokens are trained end to end (:mod:`tracer.training.finetune`).
    """

    kind: Kind = "per-layer"
    features: int = 2048
    """Features of each layer."""
    l0: float = 60.0
    activation: ActivationName = "jumprelu"
    skip: bool = False
    """Whether each layer also gets a linear map from its input to its output."""
    tokens: int = 10_000_000
    batch_tokens: int = 2048
    rate: float = _RATE
    l0_first: float = 240.0
    anneal_until: float = 0.6
    finetune_share: float = 0.0
    seed: int = 0

    @property
    def cross_layer(self) -> bool:
        return self.kind == "cross-layer"

    @property
    def reconstruction_tokens(self) -> int:
        """Tokens of the first phase, which fits MLP outputs one layer at a time."""
        return self.tokens - self.finetune_tokens

    @property
    def finetune_tokens(self) -> int:
        """Tokens of the last phase, which is trained end to end."""
        return round(self.tokens * self.finetune_share)

    def l0_at(self, progress: float) -> float:
        """Return the target of active features per token; ``progress`` is 0 to 1.

        >>> recipe = Recipe(l0=40, l0_first=160, anneal_until=0.5)
        >>> [recipe.l0_at(progress) for progress in (0, 0.25, 0.5, 1)]
        [160.0, 80.0, 40.0, 40.0]
        """
        share = min(1.0, progress / self.anneal_until)
        return float(self.l0_first * (self.l0 / self.l0_first) ** share)


def default_rate(d_model: int) -> float:
    """Return a learning rate for a model of width ``d_model``.

    Encoder rows have length 1, so their entries shrink with the square root of the width, and so
    does the step that Adam should take.

    >>> default_rate(128), default_rate(512)
    (0.002, 0.001)
    """
    return float(_RATE * (_WIDTH_OF_RATE / d_model) ** 0.5)


def check_recipe(recipe: Recipe, n_layers: int) -> None:
    """Raise :class:`TrainingError` if the recipe is impossible for ``n_layers`` layers."""
    for name, value, known in (
        ("kind", recipe.kind, KINDS),
        ("activation", recipe.activation, ACTIVATIONS),
    ):
        if value not in known:
            raise TrainingError(f"{name} is {value!r}: expected one of {', '.join(known)}")
    for name, least in (("features", 1), ("batch_tokens", 1), ("tokens", 1)):
        if getattr(recipe, name) < least:
            raise TrainingError(f"{name} is {getattr(recipe, name)}: give at least {least}")
    if not 0 < recipe.rate < float("inf"):
        raise TrainingError(f"rate is {recipe.rate}: give a positive learning rate")
    if not 0 <= recipe.finetune_share < 1:
        raise TrainingError(
            f"finetune_share is {recipe.finetune_share}: give a share from 0 to below 1"
        )
    if not 0 < recipe.l0 < float("inf"):
        raise TrainingError(f"l0 is {recipe.l0}: give a positive number of features per token")
    total = n_layers * recipe.features
    if recipe.activation == "topk":
        k = round(recipe.l0 / n_layers)
        if k > recipe.features:
            raise TrainingError(
                f"l0 {recipe.l0:g} over {n_layers} layers needs k {k}, more than the "
                f"{recipe.features} features of a layer: lower l0 or raise features"
            )
    if recipe.l0 > total:
        raise TrainingError(
            f"l0 is {recipe.l0:g}, more than the {total} features of {n_layers} layers with "
            f"{recipe.features} each: lower l0 or raise features"
        )


def top_k(recipe: Recipe, n_layers: int) -> int:
    """Return the ``k`` of a TopK set: its share of ``l0`` in each layer, at least 1."""
    return max(1, round(recipe.l0 / n_layers))
