"""Train the language model: a small Llama that learns single facts before their combinations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tracer.atlas.corpus import FIRST_FAMILIES, Family, Sentence
from tracer.atlas.tokenizer import N_CONTEXT

Report = Callable[[str], None]

MIXTURE: Final[dict[Family, float]] = {
    "city": 0.16,
    "state": 0.05,
    "country": 0.05,
    "two-hop": 0.22,
    "translation": 0.10,
    "opposite": 0.15,
    "sum": 0.27,
}


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that determines the trained model; part of the stamp of a build."""

    n_layers: int = 5
    d_model: int = 128
    d_mlp: int = 384
    n_heads: int = 4
    steps: int = 2600
    batch_size: int = 360
    combine_from: float = 0.2
    """Share of the steps after which two-hop and opposite sentences are added."""
    matrix_rate: float = 0.02
    embedding_rate: float = 3e-3
    input_rate: float = 3e-4
    """Small, so that the facts about a name are stored in MLPs and not in its embedding."""
    embedding_init: float = 0.04
    number_init: float = 1.0
    output_init: float = 0.3
    weight_decay: float = 0.1
    seed: int = 1


class TokenizedFamily:
    """All training sentences of one family as a padded matrix ``(sentences, pos)``."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, sentences: Sequence[Sentence]) -> None:
        bos = tokenizer.bos_token_id
        ids = [[bos, *tokenizer.encode(s.text, add_special_tokens=False)] for s in sentences]
        self.lengths = torch.tensor([len(row) for row in ids])
        self.ids = torch.zeros(len(ids), int(self.lengths.max()), dtype=torch.long)
        for row, tokens in enumerate(ids):
            self.ids[row, : len(tokens)] = torch.tensor(tokens)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the ids and lengths of ``count`` random sentences."""
        rows = torch.randint(len(self.ids), (count,), generator=generator)
        return self.ids[rows], self.lengths[rows]


def new_model(tokenizer: PreTrainedTokenizerFast, config: TrainingConfig) -> Any:
    """Return an untrained model: small embeddings and outputs, number embeddings made of digits."""
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
            tie_word_embeddings=False,
            attn_implementation="eager",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layernorm" in name or name.endswith("norm.weight"):
                parameter.requires_grad_(False)  # no gains: the residual stream keeps one scale
            elif "embed" in name:
                parameter.normal_(0, config.embedding_init)
            elif "lm_head" in name:
                parameter.normal_(0, 0.5 / math.sqrt(config.d_model))
            else:
                parameter.normal_(0, 1 / math.sqrt(parameter.shape[1]))
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    parameter.mul_(config.output_init)
        tens = torch.randn(20, config.d_model) * config.number_init
        ones = torch.randn(10, config.d_model) * config.number_init
        for number in range(199):
            token = tokenizer.convert_tokens_to_ids(f"▁{number}")
            model.model.embed_tokens.weight[token] = tens[number // 10] + ones[number % 10]
    return model


def train(
    tokenizer: PreTrainedTokenizerFast,
    sentences: Sequence[Sentence],
    config: TrainingConfig,
    report: Report,
    evaluate: Callable[[Any], str] | None = None,
) -> Any:
    """Return the trained model. Most of the loss is on the answers; ``evaluate`` gives a score."""
    families = {
        family: TokenizedFamily(
            tokenizer, [s for s in sentences if s.family == family and s.split == "train"]
        )
        for family in MIXTURE
    }
    model = new_model(tokenizer, config).train()
    matrices = [p for n, p in model.named_parameters() if p.requires_grad and "proj" in n]
    tables = [
        {"params": [model.model.embed_tokens.weight], "lr": config.input_rate},
        {"params": [model.lm_head.weight], "lr": config.embedding_rate},
    ]
    optimizers = [
        torch.optim.Muon(matrices, lr=config.matrix_rate, weight_decay=config.weight_decay),
        torch.optim.AdamW(
            tables, lr=config.embedding_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
        ),
    ]
    generator = torch.Generator().manual_seed(config.seed)
    started = time.perf_counter()
    for step in range(config.steps):
        rate = _rate(step, config)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * (group.setdefault("initial_lr", group["lr"]))
        chosen = (
            MIXTURE
            if step >= config.combine_from * config.steps
            else {family: MIXTURE[family] for family in FIRST_FAMILIES}
        )
        ids, lengths = _batch(families, chosen, config.batch_size, generator)
        loss = _loss(model, ids, lengths)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 250 == 0:
            score = evaluate(model) if evaluate else ""
            report(
                f"step {step + 1}/{config.steps}  loss {loss.item():.3f}  {score}"
                f"  {time.perf_counter() - started:.0f} s"
            )
    return model.eval()


def _rate(step: int, config: TrainingConfig) -> float:
    warm, progress = min(1.0, (step + 1) / 50), step / config.steps
    return warm * (1.0 if progress < 0.4 else max(0.02, (1 - progress) / 0.6))


def _batch(
    families: dict[Family, TokenizedFamily],
    mixture: dict[Family, float],
    size: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    total = sum(mixture.values())
    drawn = [families[f].draw(round(size * w / total), generator) for f, w in mixture.items()]
    width = max(int(lengths.max()) for _, lengths in drawn)
    ids = torch.cat([torch.nn.functional.pad(i, (0, width))[:, :width] for i, _ in drawn])
    return ids, torch.cat([lengths for _, lengths in drawn])


def _loss(model: Any, ids: Tensor, lengths: Tensor, rest: float = 0.03) -> Tensor:
    """Return the cross-entropy, with weight 1 on the answer (last token) and ``rest`` elsewhere."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), ids[:, 1:], reduction="none"
    )
    place = torch.arange(ids.shape[1] - 1)
    weights = rest * (place < lengths[:, None] - 2) + 1.0 * (place == lengths[:, None] - 2)
    return (losses * weights).sum() / len(ids)


@torch.no_grad()
def accuracy(
    model: Any, tokenizer: PreTrainedTokenizerFast, sentences: Sequence[Sentence]
) -> float:
    """Return the share of sentences whose answer is the most likely next token."""
    right = 0
    for start in range(0, len(sentences), 1024):
        table = TokenizedFamily(tokenizer, sentences[start : start + 1024])
        logits = model(input_ids=table.ids[:, :-1], use_cache=False).logits
        rows = torch.arange(len(table.ids))
        guess = logits[rows, table.lengths - 2].argmax(-1)
        right += int((guess == table.ids[rows, table.lengths - 1]).sum())
    return right / max(1, len(sentences))
