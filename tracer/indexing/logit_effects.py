"""Which tokens every feature promotes and suppresses when it writes straight to the output.

That is the sum of its decoder vectors over the layers it writes to, times the unembedding. The mean
logit that is taken off, and the final norm's scale, do not change the order of the tokens.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Int
from torch import Tensor

from tracer.model.model import Model

N_SHOWN: Final = 8
AT_ONCE: Final = 2**27
"""Bytes of logits, or of decoder vectors, that are laid out at a time."""


def features_at_once(model: Model, layer: int) -> int:
    """Features whose logits are computed together."""
    transcoder = model.transcoders[layer]
    vectors = len(transcoder.output_layers) * model.transcoders.d_model
    return max(1, AT_ONCE // (4 * max(model.vocab_size, vectors)))


@torch.no_grad()
def moved_tokens(
    model: Model, layer: int
) -> tuple[Int[Tensor, "features shown"], Int[Tensor, "features shown"]]:
    """The tokens each feature of a layer promotes most, and those it suppresses most, as ids.

    Rows of the unembedding that the tokenizer has no token for are left out.
    """
    n_tokens = min(model.vocab_size, len(model.bridge.tokenizer))
    unembedding = model.unembedding[:, :n_tokens].float()
    shown = min(N_SHOWN, n_tokens)
    transcoder = model.transcoders[layer]
    promoted, suppressed = [], []
    step = features_at_once(model, layer)
    for start in range(0, transcoder.n_features, step):
        chosen = torch.arange(start, min(start + step, transcoder.n_features), device=model.device)
        moved = transcoder.decoder_vectors(chosen).float().sum(1) @ unembedding
        promoted.append(moved.topk(shown, dim=1).indices.int())
        suppressed.append(moved.topk(shown, dim=1, largest=False).indices.int())
    return torch.cat(promoted), torch.cat(suppressed)
