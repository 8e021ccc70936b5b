"""Tokenizers without special tokens, with tokens outside the vocabulary, and of bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers_of_models as stand_ins
from tokenizers import Tokenizer, models, pre_tokenizers

import tracer
from tracer.__main__ import main
from tracer.errors import ModelError, PromptError, TargetError, UnknownTokenError
from tracer.model.model import Model

PROMPT, IDS = "w1 w7 w2 w30 w11", (5, 11, 6, 34, 15)


def opened(folder: Path) -> Model:
    return tracer.load(str(folder), str(folder.parent / "set"), device="cpu")


def test_a_tokenizer_without_special_tokens_begins_with_the_first_word(tmp_path: Path) -> None:
    """The opened tokenizer has one then, which a library adds outside the vocabulary."""
    model = opened(stand_ins.save(tmp_path / "model", stand_ins.words(None)))
    assert max(model.bridge.tokenizer.all_special_ids) >= model.vocab_size
    graph = tracer.trace(model, PROMPT)
    assert graph.token_ids == IDS and model.first_position == 0
    assert set(graph.features[:, 1].tolist()) == set(range(5))


@pytest.mark.parametrize(
    ("special", "first"),
    [
        ({"bos_token": "[BOS]", "eos_token": "<eos>"}, 2),
        ({"pad_token": "[PAD]", "eos_token": "<eos>"}, 2),
        ({"bos_token": "[BOS]", "pad_token": "<pad>", "eos_token": "[EOS]"}, 0),
        ({"bos_token": "<bos>", "pad_token": "[PAD]"}, 1),
    ],
)
def test_a_special_token_outside_the_vocabulary_is_passed_over(
    special: dict[str, str], first: int, tmp_path: Path
) -> None:
    model = opened(stand_ins.save(tmp_path / "model", stand_ins.words(), **special))
    graph = tracer.trace(model, PROMPT)
    assert graph.token_ids == (first, *IDS) and model.first_position == 1


def test_a_word_outside_the_vocabulary_is_one_sentence(tmp_path: Path) -> None:
    model = opened(stand_ins.save(tmp_path / "model", stand_ins.words(None)))
    with pytest.raises(UnknownTokenError, match="has no token for “Zürich”, “🦊”: its vocab"):
        model.encode("w1 Zürich w2 🦊")
    with pytest.raises(
        TargetError, match=r"'Zürich' is not one token of .* \(unknown\): a target is exactly one"
    ):
        model.token_id("Zürich")
    named = stand_ins.save(tmp_path / "other", stand_ins.words(), unk_token="<unk>")
    with pytest.raises(UnknownTokenError, match="“Zürich”"):
        opened(named).encode("w1 Zürich")


def test_a_word_that_the_tokenizer_drops_is_not_lost(tmp_path: Path) -> None:
    """BPE without a token for unknown text leaves out what it does not know."""
    letters = {letter: number for number, letter in enumerate("abcdefgh")}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model = opened(stand_ins.save(tmp_path / "model", tokenizer))
    assert model.encode("bad cab") == (1, 0, 3, 2, 0, 1)
    with pytest.raises(UnknownTokenError, match="has no token for “xy”, “z”: its vocabulary"):
        model.encode("bad xy cabz")


def test_a_token_typed_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = stand_ins.save(tmp_path / "model", stand_ins.words(), bos_token="[BOS]")
    with pytest.raises(ModelError, match=r"returned token 60, the model has token ids 0 to 59"):
        opened(folder).encode("w1 [BOS]")


@pytest.mark.parametrize(
    ("prompt", "place"), [("w1 \ud800 w2", 3), ("\udcff", 0), ("w1 w2\udfff", 5)]
)
def test_half_of_a_character_in_a_prompt_is_one_sentence(
    model: Model, prompt: str, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    message = rf"character {place} of the prompt is .*, which is not a character: expected text"
    with pytest.raises(PromptError, match=message):
        tracer.trace(model, prompt)
    with pytest.raises(TargetError, match="character 0 of the target"):
        tracer.trace(model, "w1 w2", ["\ud800"])
    assert main(["trace", prompt]) == 2
    assert f"error: character {place} of the prompt" in capsys.readouterr().err


@pytest.fixture
def of_bytes(tmp_path: Path) -> Model:
    """A model whose vocabulary is 40 bytes, those of "€" and a space among them."""
    letters = sorted(set(map(chr, range(97, 123))))
    table = pre_tokenizers.ByteLevel(add_prefix_space=False)
    euro: list[str] = []
    for text in ("€", " ", "é"):
        euro += list(table.pre_tokenize_str(text)[0][0])
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*euro, *letters]))}
    tokenizer = stand_ins.bytes_of(vocabulary)
    return opened(stand_ins.save(tmp_path / "model", tokenizer))


def test_halves_of_characters_are_shown_as_bytes(of_bytes: Model) -> None:
    ids = of_bytes.encode("a €")
    assert of_bytes.token_strings(ids) == ("a", " ", "\\xe2", "\\x82", "\\xac")
    graph = tracer.trace(of_bytes, ids)
    assert graph.prompt == "a €" and graph.tokens == ("a", " ", "\\xe2", "\\x82", "\\xac")
    for token in set(ids) | set(of_bytes.encode("é")):
        assert of_bytes.token_id(of_bytes.token_string(token)) == token
    target = tracer.trace(of_bytes, "a €", ["\\xe2"]).targets[0]
    assert (target.label, target.token_ids) == ("\\xe2", (ids[2],))


def test_an_id_without_a_token_has_a_name(of_bytes: Model) -> None:
    unused = of_bytes.vocab_size - 1
    assert of_bytes.token_string(unused) == f"<token {unused}>"
