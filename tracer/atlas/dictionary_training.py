"""Train atlas's transcoders: sparse features that replace its MLPs, per layer or cross-layer.

JumpReLU with one threshold for all features, on the activation times the decoder norm. The
threshold is steered towards a target number of active features per token, annealed from many to
few, so that the features of all layers compete for one budget (similar to BatchTopK, Bussmann et
al. 2024; cross-layer transcoders as in "Circuit Tracing", Ameisen et al. 2025).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from tracer.atlas.prefixes import Prefixes

Report = Callable[[str], None]


@dataclass(frozen=True)
class DictionaryConfig:
    """Everything that determines a trained set; part of the stamp of a build."""

    cross_layer: bool
    n_features: int = 1024
    steps: int = 3500
    batch_size: int = 2048
    rate: float = 2e-3
    active_first: float = 160
    active_last: float = 40
    anneal_until: float = 0.6
    seed: int = 5


class Dictionary(torch.nn.Module):
    """The features of all layers, in units in which every MLP output has variance 1."""

    def __init__(self, prefixes: Prefixes, config: DictionaryConfig) -> None:
        super().__init__()
        torch.manual_seed(config.seed)
        n_layers, _, d_model = prefixes.inputs.shape
        self.config = config
        mean = prefixes.outputs.mean(1)
        self.scale = (prefixes.outputs - mean[:, None]).pow(2).sum(-1).mean(1).sqrt()
        self.b_dec = torch.nn.Parameter(mean / self.scale[:, None])
        encoder = torch.randn(n_layers, config.n_features, d_model)
        encoder /= encoder.norm(dim=-1, keepdim=True)
        self.W_enc = torch.nn.Parameter(encoder)
        self.b_enc = torch.nn.Parameter(torch.zeros(n_layers, config.n_features))
        self.W_dec = torch.nn.ParameterList()
        for layer in range(n_layers):
            outputs = n_layers - layer if config.cross_layer else 1
            decoder = torch.randn(config.n_features, outputs, d_model)
            self.W_dec.append(
                torch.nn.Parameter(0.1 * decoder / decoder.norm(dim=(1, 2), keepdim=True))
            )
        self.threshold = 0.03

    def norms(self) -> Tensor:
        """Return the norm of each decoder over all layers it writes to, ``(layers, features)``."""
        return torch.stack([decoder.flatten(1).norm(dim=1) for decoder in self.W_dec])

    def forward(self, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the scaled reconstructions, and activations ``(layers, batch, features)``."""
        pre = torch.baddbmm(self.b_enc[:, None], inputs, self.W_enc.transpose(1, 2))
        above = pre * self.norms().detach()[:, None] > self.threshold
        active = pre * above
        outputs = []
        for layer in range(len(self.W_dec)):
            if self.config.cross_layer:
                parts = [active[s] @ self.W_dec[s][:, layer - s] for s in range(layer + 1)]
                outputs.append(torch.stack(parts).sum(0) + self.b_dec[layer])
            else:
                outputs.append(active[layer] @ self.W_dec[layer][:, 0] + self.b_dec[layer])
        return outputs, active


def train_dictionary(prefixes: Prefixes, config: DictionaryConfig, report: Report) -> Dictionary:
    """Return a trained set of transcoders."""
    dictionary = Dictionary(prefixes, config)
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=config.rate, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(config.seed)
    scale = dictionary.scale[:, None, None]
    weights = prefixes.counts.sqrt()  # frequent prefixes count more, but less than proportionally
    last_fired = torch.zeros(dictionary.b_enc.shape, dtype=torch.long)
    started = time.perf_counter()
    for step in range(config.steps):
        progress = step / config.steps
        for group in optimizer.param_groups:
            group["lr"] = config.rate * min(1, (step + 1) / 100, 0.02 + (1 - progress) / 0.5)
        rows = torch.multinomial(weights, config.batch_size, True, generator=generator)
        inputs, target_outputs = prefixes.inputs[:, rows], prefixes.outputs[:, rows] / scale
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs, active = dictionary(inputs)
        unexplained = torch.stack(
            [
                (output.float() - target).pow(2).sum(-1).mean()
                for output, target in zip(outputs, target_outputs, strict=True)
            ]
        )
        loss = unexplained.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            fired = active > 0
            count = fired.sum().item() / config.batch_size
            target = _target(progress, config)
            dictionary.threshold *= min(1.05, max(0.95, (count / target) ** 0.1))
            last_fired[fired.any(1)] = step
            if (step + 1) % 250 == 0 and progress < config.anneal_until:
                dead = last_fired < step - 250
                _revive(dictionary, optimizer, dead, inputs, target_outputs, outputs)
        if (step + 1) % 250 == 0:
            report(
                f"step {step + 1}/{config.steps}  unexplained "
                + " ".join(f"{value:.3f}" for value in unexplained.tolist())
                + f"  active {count:.1f}  dead {(last_fired < step - 250).sum()}"
                + f"  {time.perf_counter() - started:.0f} s"
            )
    return dictionary


def _target(progress: float, config: DictionaryConfig) -> float:
    share = min(1.0, progress / config.anneal_until)
    return float(config.active_first * (config.active_last / config.active_first) ** share)


def _revive(
    dictionary: Dictionary,
    optimizer: Any,
    dead: Tensor,
    inputs: Tensor,
    target_outputs: Tensor,
    outputs: list[Tensor],
) -> None:
    """Reinitialise dead features from the inputs with the largest reconstruction error."""
    for layer in range(len(dead)):
        rows = dead[layer].nonzero()[:, 0]
        if not len(rows):
            continue
        error = target_outputs[layer] - outputs[layer].float()
        chosen = torch.multinomial(error.pow(2).sum(-1), len(rows), replacement=True)
        direction = torch.nn.functional.normalize(inputs[layer, chosen], dim=-1)
        dictionary.W_enc.data[layer, rows] = direction
        dictionary.b_enc.data[layer, rows] = -0.6 * inputs[layer, chosen].norm(dim=-1)
        decoder = dictionary.W_dec[layer].data
        decoder[rows] = 0
        decoder[rows, 0] = 0.1 * torch.nn.functional.normalize(error[chosen], dim=-1)
        for parameter in (dictionary.W_enc, dictionary.b_enc):
            for name in ("exp_avg", "exp_avg_sq"):
                optimizer.state[parameter][name][layer, rows] = 0
        for name in ("exp_avg", "exp_avg_sq"):
            optimizer.state[dictionary.W_dec[layer]][name][rows] = 0


@torch.no_grad()
def save_dictionary(dictionary: Dictionary, folder: Path) -> None:
    """Write the set in the published layout, in the units of the model."""
    cross = dictionary.config.cross_layer
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_name": "atlas",
        "model_kind": "cross_layer_transcoder" if cross else "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "mlp.hook_out",
        "scan": "atlas-clt" if cross else "atlas-plt",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    thresholds = dictionary.threshold / dictionary.norms().clamp(min=1e-6)
    for layer, decoder in enumerate(dictionary.W_dec):
        outputs = dictionary.scale[layer:] if cross else dictionary.scale[layer : layer + 1]
        written = (decoder * outputs[None, :, None]).contiguous()
        tensors = {
            "W_enc": dictionary.W_enc[layer].contiguous(),
            "b_enc": dictionary.b_enc[layer].contiguous(),
            "b_dec": (dictionary.b_dec[layer] * dictionary.scale[layer]).contiguous(),
        }
        if cross:
            named = {f"{name}_{layer}": value for name, value in tensors.items()}
            named[f"threshold_{layer}"] = thresholds[layer].contiguous()
            save_file(named, folder / f"W_enc_{layer}.safetensors")
            save_file({f"W_dec_{layer}": written}, folder / f"W_dec_{layer}.safetensors")
        else:
            tensors["W_dec"] = written[:, 0].contiguous()
            tensors["activation_function.threshold"] = thresholds[layer].contiguous()
            save_file(tensors, folder / f"layer_{layer}.safetensors")
