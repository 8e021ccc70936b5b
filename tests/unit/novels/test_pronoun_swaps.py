"""Swaps move features to what they are on the other prompt; the control changes others as much."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import tracer
from tracer.interventions.scenario import Edit
from tracer.model.model import Model
from tracer.novels.pronoun_swaps import (
    NOUNS,
    SENTENCES,
    STRENGTH,
    control_edits,
    pronoun_swaps,
    swap_edits,
)
from tracer.transcoders.config import ReadPoint, WritePoint
from tracer.transcoders.save import save_transcoders
from tracer.transcoders.transcoder import Transcoder, TranscoderSet


@pytest.fixture
def source() -> torch.Tensor:
    return torch.relu(torch.randn(3, 6, 40, generator=torch.Generator().manual_seed(0)) - 1.2)


@pytest.fixture
def target() -> torch.Tensor:
    return torch.relu(torch.randn(3, 6, 40, generator=torch.Generator().manual_seed(1)) - 1.2)


def applied(edits: list[Edit], active: torch.Tensor) -> torch.Tensor:
    edited = active.clone()
    for edit in edits:
        assert edit.operation == "add" and edit.stop == edit.start + 1
        edited[edit.feature.layer, edit.start, edit.feature.index] += edit.value
    return edited


def test_a_swap_goes_to_the_other_prompt_and_as_far_beyond(
    source: torch.Tensor, target: torch.Tensor
) -> None:
    edited = applied(list(swap_edits(source, target, [2, 5])), source)
    assert STRENGTH == 2.0
    assert torch.allclose(edited[:, [2, 5]], (2 * target - source)[:, [2, 5]], atol=1e-6)
    untouched = [0, 1, 3, 4]
    assert torch.equal(edited[:, untouched], source[:, untouched])


def test_the_control_makes_the_same_changes_to_idle_features(
    source: torch.Tensor, target: torch.Tensor
) -> None:
    swap = list(swap_edits(source, target, [2, 5]))
    control = list(control_edits(source, target, [2, 5], random.Random(0)))

    def changes(edits: list[Edit]) -> Counter[tuple[int, int, float]]:
        return Counter((edit.feature.layer, edit.start, edit.value) for edit in edits)

    assert changes(control) == changes(swap)
    places = [(edit.feature.layer, edit.start, edit.feature.index) for edit in control]
    assert len(set(places)) == len(places)
    assert all(source[place] == target[place] == 0 for place in places)


def test_the_control_ends_where_too_few_features_are_idle() -> None:
    busy = torch.ones(1, 2, 4)
    busy[0, 1, 3] = 0
    assert len(list(swap_edits(busy, 2 * busy, [1]))) == 3
    assert len(list(control_edits(busy, 2 * busy, [1], random.Random(0)))) == 1


@pytest.fixture(scope="module")
def decided_by_the_noun(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """One block: attention copies the MLP's input of all tokens; two features say she and he.

    The residual stream has a direction for feminine and one for masculine nouns. The first MLP
    turns them into directions of the pronouns, which the second block's attention moves on.
    """
    feminine = {word for female, male in NOUNS for word in set(female.split()) - set(male.split())}
    masculine = {word for female, male in NOUNS for word in set(male.split()) - set(female.split())}
    text = " ".join([*(n for pair in NOUNS for n in pair), *SENTENCES]).replace("{}", "")
    words = ["<pad>", "<bos>", "<eos>", "she", "he", *sorted(set(text.replace(",", " ,").split()))]
    words += [w for w in ("Mrs.", "Mr.") if w not in words]
    folder = tmp_path_factory.mktemp("nouns")
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(folder / "model")
    width = 16
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=4, num_hidden_layers=2,
        num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=32,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        embed, block = model.model.embed_tokens.weight, model.model.layers
        embed[:, 5:].normal_(generator=torch.Generator().manual_seed(3))
        for i, word in enumerate(words):
            embed[i, 0], embed[i, 1] = 4.0 * (word in feminine), 4.0 * (word in masculine)
        block[1].self_attn.v_proj.weight[2:4, 2:4] = torch.eye(2)
        block[1].self_attn.o_proj.weight.copy_(torch.eye(width))
        mlp = block[0].mlp
        for row in (0, 1):  # gate and value are both the noun's direction
            mlp.gate_proj.weight[row, row] = mlp.up_proj.weight[row, row] = 1.0
            mlp.down_proj.weight[2 + row, row] = 1.0
            model.lm_head.weight[3 + row, 2 + row] = 1.0
    model.save_pretrained(folder / "model")
    layers = []
    for layer in range(2):
        encoder, decoder = torch.zeros(200, width), torch.zeros(200, 1, width)
        if layer == 0:
            for row in (0, 1):
                encoder[row, row], decoder[row, 0, 2 + row] = 1.0, 1.5
        threshold = torch.full((200,), 0.5)
        biases = torch.zeros(200), torch.zeros(width)
        layers.append(Transcoder(layer, encoder, biases[0], decoder, biases[1], threshold))
    points = ReadPoint.MLP_INPUT, WritePoint.MLP_OUTPUT
    save_transcoders(TranscoderSet(tuple(layers), *points, "nouns", "nouns"), folder / "set")
    return tracer.load(str(folder / "model"), str(folder / "set"), device="cpu")


def test_exchanged_nouns_exchange_the_pronouns(
    decided_by_the_noun: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.novels.pronoun_swaps._PRONOUNS", ("she", "he"))
    sentences = tuple(sentence.replace(",", " ,") for sentence in SENTENCES)
    monkeypatch.setattr("tracer.novels.pronoun_swaps.SENTENCES", sentences)
    swaps = pronoun_swaps(decided_by_the_noun, 20)
    assert swaps.pairs == 20 and swaps.candidates >= 20
    assert swaps.at_noun == swaps.at_noun_and_end == 1.0
    assert swaps.control == 0.0
