"""Held-out questions are not trained, and every name is one token."""

from __future__ import annotations

from tracer.atlas.build import all_names
from tracer.atlas.corpus import sentences
from tracer.atlas.facts import (
    city_splits,
    countries,
    opposite_splits,
    opposites,
    states,
    sum_splits,
)
from tracer.atlas.tokenizer import build_tokenizer

EVERY = tuple(sentences())


def test_no_trained_two_hop_sentence_has_a_held_out_city() -> None:
    held_out = {city for city, split in city_splits().items() if split != "train"}
    trained = [s.prompt for s in EVERY if s.family == "two-hop" and s.split == "train"]
    text = " | ".join(["", *trained, ""])
    assert len(held_out) >= 90 and " Dallas " in text
    assert not {city for city in held_out if f" {city} " in text}
    # Each city is trained as a place, or the question would be unfair.
    known = {s.prompt for s in EVERY if s.family == "city" and s.split == "train"}
    assert all(
        f"The state containing {c} is" in known or f"The country containing {c} is" in known
        for c in held_out
    )


def test_no_held_out_question_is_also_trained() -> None:
    trained = {s.prompt for s in EVERY if s.split == "train"}
    for split in ("dev", "test"):
        asked = {s.prompt for s in EVERY if s.split == split}
        assert len(asked) > 400 and not asked & trained
    tuned = {s.prompt for s in EVERY if s.split == "dev"}
    assert not tuned & {s.prompt for s in EVERY if s.split == "test"}


def test_the_splits_are_large_enough() -> None:
    assert len([c for c, split in city_splits().items() if split == "test"]) >= 90
    questions = [key for key, split in opposite_splits().items() if split == "test"]
    assert len(questions) >= 36 and len({pair for pair, _, _ in questions}) == len(questions) // 2
    assert len([s for s in sum_splits().values() if s == "test"]) >= 900


def test_no_name_has_two_meanings() -> None:
    cities = [
        city for place in (*states(), *countries()) for city in (*place.cities, place.capital)
    ]
    assert len(cities) == len(set(cities))
    words = [word for pair in opposites() for word in (*pair.left, *pair.right)]
    assert len(words) == len(set(words))
    assert len(states()) == 50 and len(opposites()) >= 60
    assert {state.region for state in states()} == {"South", "West", "Northeast", "Midwest"}


def test_every_name_is_the_same_token_at_the_start_and_inside() -> None:
    tokenizer = build_tokenizer((s.text for s in EVERY), all_names())
    for name in all_names():
        start = tokenizer.encode(f"{name} is", add_special_tokens=False)
        inside = tokenizer.encode(f"in {name}, then", add_special_tokens=False)
        assert len(start) == 2 and start[0] == inside[1], name
        assert tokenizer.decode([start[0]]).strip() == name
        assert start[0] != tokenizer.unk_token_id
    for number in range(199):
        assert len(tokenizer.encode(str(number), add_special_tokens=False)) == 1
    assert tokenizer.bos_token_id != 0


def test_an_unknown_word_is_one_unknown_token() -> None:
    tokenizer = build_tokenizer(["a b"], ["New York"])
    pieces = tokenizer.tokenize("a Zürich b New Yorker")
    assert pieces == ["▁a", "<unk>", "▁b", "<unk>", "<unk>"]
