"""The tokenizer of the embedded model of English: byte-level BPE, trained on the books."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SPECIALS: Final = (PAD, BOS, EOS)
"""In the order of their ids. The beginning of text is not 0, an id that circuit-tracer drops."""
N_TOKENS: Final = 4096
N_CONTEXT: Final = 256


def train_tokenizer(texts: Iterable[str], n_tokens: int = N_TOKENS) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of ``n_tokens`` tokens: any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=N_CONTEXT,
        clean_up_tokenization_spaces=False,
    )
