"""Atlas's tokenizer: every name, word and number is one token that begins with a space.

A word-level tokenizer in the Hugging Face format. Spaces become ``▁``, punctuation marks are single
tokens, and names of several words are matched first, so a name is the same single token at the
start of a sentence and inside it. An unknown word is one ``<unk>``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
SPECIALS: Final = (PAD, BOS, EOS, UNK)
"""In the order of their ids. BOS is not 0, because circuit-tracer drops a BOS of id 0."""
PUNCTUATION: Final = "+=:,."
N_CONTEXT: Final = 64


def build_tokenizer(texts: Iterable[str], names: Iterable[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer for ``names``, the numbers 0 to 198 and all words of ``texts``."""
    joined = sorted({name for name in names if " " in name}, key=lambda name: (-len(name), name))
    pieces = [_piece(name) for name in joined]
    pattern = "|".join([*(f"{re.escape(piece)}(?=▁|$)" for piece in pieces), "▁[^▁]*"])
    normalizer = normalizers.Sequence(
        [
            *(normalizers.Replace(mark, f" {mark} ") for mark in PUNCTUATION),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Prepend(" "),
            normalizers.Replace(" ", "▁"),
        ]
    )
    splitter = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    words: dict[str, None] = dict.fromkeys(pieces)
    words |= dict.fromkeys(_piece(str(number)) for number in range(199))
    for text in texts:
        normalized = normalizer.normalize_str(text)
        words |= dict.fromkeys(piece for piece, _ in splitter.pre_tokenize_str(normalized))
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Replace("▁", " ")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=N_CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _piece(word: str) -> str:
    return "▁" + word.replace(" ", "▁")
