"""Train the embedded model of English: a Llama of 6 layers and width 192.

The data order follows from the seed alone and every checkpoint holds the optimizers' state, so a
training that was killed and resumed ends with the same weights.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tracer.files import replacing
from tracer.novels.books import Book, opening_texts
from tracer.novels.muon import Muon
from tracer.novels.tokenizer import N_CONTEXT
from tracer.novels.windows import IGNORED, as_batch, tokenize, windows

Report = Callable[[str], None]
_CHECKPOINT: Final = "checkpoint.safetensors"


@dataclass(frozen=True)
class LanguageModelConfig:
    """What shapes the trained model; part of the build's stamp."""

    n_layers: int = 6
    d_model: int = 192
    d_mlp: int = 576
    n_heads: int = 6
    epochs: float = 1.2
    batch_size: int = 32
    """Windows in a step."""
    micro_batch: int = 16
    """Windows in one forward pass; changes the speed, not the result beyond rounding."""
    matrix_rate: float = 0.03
    embedding_rate: float = 3e-3
    weight_decay: float = 0.1
    embedding_decay: float = 0.02
    embedding_init: float = 0.03
    output_init: float = 0.3
    opening_copies: int = 8
    """How often a pass shows each famous first line."""
    recited: int = 2
    """Windows of each step that are famous first lines, in the last part of the training."""
    recited_from: float = 0.8
    """Where that part begins, as a share of all steps."""
    warm_up: int = 100
    constant_until: float = 0.467
    seed: int = 1


def new_model(tokenizer: PreTrainedTokenizerFast, config: LanguageModelConfig) -> Any:
    """Return an untrained model with tied embeddings and damped residual outputs."""
    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.d_model,
            intermediate_size=config.d_mlp,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_heads,
            max_position_embeddings=N_CONTEXT,
            tie_word_embeddings=True,
            attn_implementation="sdpa",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                continue
            if "embed" in name:
                parameter.normal_(0, config.embedding_init)
                continue
            parameter.normal_(0, 1 / math.sqrt(parameter.shape[1]))
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(config.output_init)
    return model


def train(
    tokenizer: PreTrainedTokenizerFast,
    books: Sequence[Book],
    config: LanguageModelConfig,
    folder: Path,
    report: Report,
    checkpoint_steps: int = 200,
) -> Any:
    """Return the trained model; ``folder`` keeps the checkpoint that a later call goes on from."""
    texts = [text for book in books for text in book.passages("train")]
    passages = [tokenize(text, tokenizer) for text in texts]
    beginning = tokenizer.bos_token_id
    openings = _first_windows(tokenizer, books) * config.opening_copies
    per_epoch = (len(windows(passages, beginning, N_CONTEXT)) + len(openings)) // config.batch_size
    total = round(per_epoch * config.epochs)
    model = new_model(tokenizer, config).train()
    optimizers = _optimizers(model, config)
    step = _load(folder / _CHECKPOINT, model, optimizers)
    report(f"{total} steps of {config.batch_size} windows, {step} of them done")
    epoch, rows, started, first = -1, [], time.perf_counter(), step
    losses: list[float] = []
    while step < total:
        number, place = divmod(step, per_epoch)
        if number != epoch:
            epoch = number
            rng = random.Random(1000 + epoch)
            rows = windows(passages, beginning, N_CONTEXT, rng) + openings
            rng.shuffle(rows)
        start = place * config.batch_size
        batch = (rows + rows[: config.batch_size])[start : start + config.batch_size]
        if config.recited and step >= config.recited_from * total:
            lines = [
                openings[(step * config.recited + i) % len(openings)] for i in range(config.recited)
            ]
            batch = [*batch[: -config.recited], *lines]
        _set_rates(optimizers, _rate(step, total, config))
        losses.append(_step(model, batch, config))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 20 == 0:
            speed = (step - first) * config.batch_size * N_CONTEXT / (time.perf_counter() - started)
            recent = sum(losses[-20:]) / len(losses[-20:])
            report(f"step {step}/{total}  loss {recent:.3f}  {speed:.0f} tokens/s")
        if step % checkpoint_steps == 0:
            _save(folder / _CHECKPOINT, model, optimizers, step)
    return model.eval()


def _first_windows(tokenizer: PreTrainedTokenizerFast, books: Sequence[Book]) -> list[list[int]]:
    """The famous first lines, a window each."""
    return [
        [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]][
            :N_CONTEXT
        ]
        for text in opening_texts(books)
    ]


def _step(model: Any, rows: Sequence[Sequence[int]], config: LanguageModelConfig) -> float:
    """Add the gradients of a batch; returns its mean loss in nats a token."""
    inputs, labels = as_batch(rows, N_CONTEXT)
    counted, total = int((labels != IGNORED).sum()), 0.0
    for start in range(0, len(rows), config.micro_batch):
        part = slice(start, start + config.micro_batch)
        logits = model(input_ids=inputs[part], use_cache=False).logits.flatten(0, 1)
        loss = cross_entropy(logits, labels[part].flatten(), ignore_index=IGNORED, reduction="sum")
        loss = loss / counted
        loss.backward()
        total += loss.item()
    others = [p for name, p in model.named_parameters() if "proj" not in name]
    torch.nn.utils.clip_grad_norm_(others, 1.0)
    return total


@torch.no_grad()
def mean_loss(model: Any, rows: Sequence[Sequence[int]]) -> float:
    """Return the mean loss of a model over windows, in nats a token."""
    total, count = 0.0, 0
    for start in range(0, len(rows), 16):
        inputs, labels = as_batch(rows[start : start + 16], N_CONTEXT)
        logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)
        total += cross_entropy(
            logits, labels.flatten(), ignore_index=IGNORED, reduction="sum"
        ).item()
        count += int((labels != IGNORED).sum())
    return total / count


def _rate(step: int, total: int, config: LanguageModelConfig) -> float:
    """Warm up, stay, then fall linearly to zero."""
    progress = step / total
    falling = (1 - progress) / (1 - config.constant_until)
    return min(1.0, (step + 1) / config.warm_up) * max(0.0, min(1.0, falling))


def _optimizers(model: Any, config: LanguageModelConfig) -> list[torch.optim.Optimizer]:
    named = list(model.named_parameters())
    matrices = [p for name, p in named if "proj" in name]
    embeddings = [p for name, p in named if "proj" not in name and p.ndim == 2]
    gains = [p for _, p in named if p.ndim == 1]
    groups = [
        {"params": embeddings, "weight_decay": config.embedding_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, config.matrix_rate, weight_decay=config.weight_decay),
        torch.optim.AdamW(groups, lr=config.embedding_rate, betas=(0.9, 0.95)),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["first_rate"] = group["lr"]
    return optimizers


def _set_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["first_rate"] * factor


def _save(path: Path, model: Any, optimizers: Sequence[torch.optim.Optimizer], step: int) -> None:
    """Write weights and optimizer state as one safetensors file, whole or not at all."""
    tensors = {f"model.{name}": value for name, value in _weights(model)}
    for number, optimizer in enumerate(optimizers):
        for place, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer.{number}.{place}.{name}"] = torch.as_tensor(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, {"step": str(step)})


def _load(path: Path, model: Any, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Restore what :func:`_save` wrote; returns the steps done, 0 where there is no file."""
    if not path.is_file():
        return 0
    with safe_open(path, "pt") as file, torch.no_grad():
        for name, value in _weights(model):
            value.copy_(file.get_tensor(f"model.{name}"))
        for number, optimizer in enumerate(optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            prefix = f"optimizer.{number}."
            for key in file.keys():  # noqa: SIM118 (not a dict)
                if key.startswith(prefix):
                    place, _, name = key.removeprefix(prefix).partition(".")
                    state.setdefault(int(place), {})[name] = file.get_tensor(key)
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        return int(file.metadata()["step"])


def _weights(model: Any) -> list[tuple[str, Tensor]]:
    """Parameters by name; tied ones once."""
    return [(name, parameter.data) for name, parameter in model.named_parameters()]
