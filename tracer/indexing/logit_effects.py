"""Which tokens each feature promotes and suppresses by writing directly to the output.

The effect on the logits is the sum of what the feature adds to the residual stream at the layers it
writes to, through the final norm's gain, times the unembedding. Norms after an MLP act with their
gains. Scales depend on the prompt and are taken as 1; the final norm's scale and the mean logit
would not change the order of the tokens.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Int
from torch import Tensor

from tracer.model.model import Model
from tracer.search.dictionary import written_at

N_SHOWN: Final = 8
"""Tokens kept at either end."""
BYTES_AT_ONCE: Final = 2**27
"""Bytes of logits, or of decoder vectors, that are computed at a time."""


def features_at_once(model: Model, layer: int) -> int:
    """Return how many features' logits are computed at a time."""
    transcoder = model.transcoders[layer]
    vectors = len(transcoder.output_layers) * model.transcoders.d_model
    return max(1, BYTES_AT_ONCE // (4 * max(model.vocab_size, vectors)))


@torch.no_grad()
def promoted_and_suppressed(
    model: Model, layer: int
) -> tuple[Int[Tensor, "features shown"], Int[Tensor, "features shown"]]:
    """Return the ids of the tokens that each feature promotes most, and suppresses most.

    Rows of the unembedding for which the tokenizer has no token are left out.
    """
    n_tokens = min(model.vocab_size, len(model.bridge.tokenizer))
    unembedding = model.unembedding[:, :n_tokens].float()
    shown = min(N_SHOWN, n_tokens)
    transcoder = model.transcoders[layer]
    promoted, suppressed = [], []
    step = features_at_once(model, layer)
    for start in range(0, transcoder.n_features, step):
        chosen = torch.arange(start, min(start + step, transcoder.n_features), device=model.device)
        vectors = transcoder.decoder_vectors(chosen).float()
        written = torch.zeros_like(vectors[:, 0])
        for place, output_layer in enumerate(transcoder.output_layers):
            written += written_at(model, output_layer, vectors[:, place])
        effects = model.final_norm.push_forward(written, written.new_ones(1)) @ unembedding
        promoted.append(effects.topk(shown, dim=1).indices.int())
        suppressed.append(effects.topk(shown, dim=1, largest=False).indices.int())
    return torch.cat(promoted), torch.cat(suppressed)
