"""Tokenizers of the kinds that published models have, for the tiny models of `tiny_models`."""

from __future__ import annotations

from pathlib import Path

import tiny
import tiny_models
from tiny_models import VOCABULARY
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""What the templates of Gemma do, in short."""


def words(unknown: str | None = "<unk>") -> Tokenizer:
    """Return a tokenizer of whole words, whose ids are those of the tiny models."""
    vocabulary = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def gemma_words() -> Tokenizer:
    """Return a tokenizer of words and newlines with Gemma's chat tokens in place of some words."""
    replaced = ("<start_of_turn>", "<end_of_turn>", "user", "model", "\n")
    kept = VOCABULARY[: -len(replaced)]
    vocabulary = {word: number for number, word in enumerate((*kept, *replaced))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in replaced])
    return tokenizer


def bytes_of(vocabulary: dict[str, int]) -> Tokenizer:
    """Return a byte-level tokenizer without merges."""
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def save(folder: Path, tokenizer: Tokenizer, template: str | None = None, **special: str) -> Path:
    """Write a tiny model with a tokenizer, and transcoders beside it; return the model's folder."""
    tiny_models.build("llama").save_pretrained(folder)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = template
    fast.save_pretrained(folder)
    if not (folder.parent / "set").exists():
        tiny.save_transcoders(folder.parent / "set")
    return folder
