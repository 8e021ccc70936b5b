"""The measurements of a transcoder set, as text, JSON and model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LayerReport:
    """The measurements of one layer."""

    layer: int
    l0: float
    """Active features per token."""
    unexplained: float
    """Share of the variance of the MLP's output that the reconstruction misses."""
    dead: float
    """Share of the features that never fire."""
    replaced_loss: float
    """Next-token loss, in nats, with this MLP alone replaced."""
    ablated_loss: float
    """Next-token loss with this MLP alone set to zero."""
    recovered: float | None
    """Share of the loss recovered: 0 is as bad as zero ablation, 1 as good as the model. None if
    zero ablation does not raise the loss."""


@dataclass(frozen=True)
class TrainingReport:
    """The measurements of a transcoder set on held-out text."""

    model: str
    transcoders: str
    features: int
    """Over all layers."""
    l0: float
    """Active features per token, over all layers."""
    unexplained: float
    """Unexplained share of the variance, averaged over layers."""
    dead: float
    """Share of the features that never fire in ``tokens`` tokens."""
    tokens: int
    """Tokens that L0, unexplained variance and dead features were measured on."""
    loss: float
    """Next-token loss of the model itself, nats per token."""
    replaced_loss: float
    """With every MLP replaced by its transcoder."""
    ablated_loss: float
    """With every MLP set to zero."""
    recovered: float | None
    """``(ablated_loss - replaced_loss) / (ablated_loss - loss)``; None if zero
    ablation does not raise the loss."""
    divergence: float
    """KL divergence of the replaced model from the model itself, nats per token."""
    same_top: float
    """Share of tokens after which the most likely next token is the same in both."""
    loss_tokens: int
    """Tokens that losses were measured on."""
    layers: tuple[LayerReport, ...]
    training: Mapping[str, Any] = field(default_factory=dict)
    """Options, tokens and time of a training; empty for a set that was only evaluated."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"training": dict(self.training)}

    def __str__(self) -> str:
        """Return a table for a terminal."""
        lines = [
            f"{self.transcoders or 'transcoders'} of {self.model}: {self.features:,} features in "
            f"{len(self.layers)} layers",
            f"  active features per token   {self.l0:.1f}",
            f"  variance unexplained        {self.unexplained:.2%}",
            f"  dead features               {self.dead:.2%} in {self.tokens:,} tokens",
            f"  next-token loss             {self.loss:.3f}  (on {self.loss_tokens:,} tokens)",
            f"    every MLP replaced        {self.replaced_loss:.3f}",
            f"    every MLP zero            {self.ablated_loss:.3f}",
            f"  loss recovered              {_share(self.recovered)}",
            f"  KL from the model           {self.divergence:.3f} nats, same top token "
            f"{self.same_top:.1%}",
            "",
            "layer     L0  unexplained    dead  loss replaced    zero  recovered",
        ]
        lines += [
            f"{layer.layer:5} {layer.l0:6.1f} {layer.unexplained:12.2%} {layer.dead:7.2%} "
            f"{layer.replaced_loss:14.3f} {layer.ablated_loss:7.3f} {_share(layer.recovered):>10}"
            for layer in self.layers
        ]
        return "\n".join(lines)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def model_card(report: TrainingReport, kind: str, read: str, write: str) -> str:
    """Return the README of a trained set, in Markdown."""
    name = report.model.rstrip("/").rpartition("/")[2]
    training = {key: value for key, value in report.training.items() if key != "corpus"}
    options = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in training.items())
    layers = "\n".join(
        f"| {layer.layer} | {layer.l0:.1f} | {layer.unexplained:.2%} | {layer.dead:.2%} "
        f"| {layer.replaced_loss:.3f} | {layer.ablated_loss:.3f} | {_share(layer.recovered)} |"
        for layer in report.layers
    )
    return f"""---
tags:
- transcoder
- {kind}
- circuit-tracing
---

# {kind.capitalize()} transcoders for {name}

{report.features:,} features in {len(report.layers)} layers. They read `{read}` and replace
`{write}`. Open them with

```python
import tracer

model = tracer.load("MODEL", "THIS FOLDER")
```

## On held-out text

| | |
|---|---|
| active features per token (L0), all layers | {report.l0:.1f} |
| variance of MLP outputs unexplained, mean over layers | {report.unexplained:.2%} |
| dead features (never active in {report.tokens:,} tokens) | {report.dead:.2%} |
| next-token loss of the model, nats | {report.loss:.3f} |
| with every MLP replaced by its transcoder | {report.replaced_loss:.3f} |
| with every MLP set to zero | {report.ablated_loss:.3f} |
| share of the loss recovered | {_share(report.recovered)} |
| KL divergence from the model, nats | {report.divergence:.3f} |
| same likeliest next token | {report.same_top:.1%} |

Losses are means over {report.loss_tokens:,} tokens. By layer; losses with that layer's MLP alone
replaced or set to zero:

| layer | L0 | unexplained | dead | replaced | zero | recovered |
|---|---|---|---|---|---|---|
{layers}

## Training

| | |
|---|---|
{options}

Trained with `python -m tracer train`; measured again by `python -m tracer evaluate`.
"""
