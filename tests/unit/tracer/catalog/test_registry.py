"""The list of models: what it says of sizes, and a user's own beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tracer import hub
from tracer.catalog import registry
from tracer.errors import RegistryError

PUBLISHED = {
    "google/gemma-2-2b": (
        "mntss/gemma-scope-transcoders", "mntss/clt-gemma-2-2b-426k", "mntss/clt-gemma-2-2b-2.5M",
    ),
    "meta-llama/Llama-3.2-1B": (
        "mntss/transcoder-Llama-3.2-1B", "mntss/clt-llama-3.2-1b-524k",
    ),
    "Qwen/Qwen3-0.6B": ("mwhanna/qwen3-0.6b-transcoders-lowl0",),
    "Qwen/Qwen3-1.7B": ("mwhanna/qwen3-1.7b-transcoders-lowl0",),
    "Qwen/Qwen3-4B": ("mwhanna/qwen3-4b-transcoders",),
    "Qwen/Qwen3-8B": ("mwhanna/qwen3-8b-transcoders",),
    "Qwen/Qwen3-14B": ("mwhanna/qwen3-14b-transcoders-lowl0",),
    "openai/gpt-oss-20b": ("mntss/clt-131k",),
    "meta-llama/Llama-3.1-8B-Instruct": ("facebook/crv-8b-instruct-transcoders",),
}  # fmt: skip
OWN = """
models:
  - name: mine
    repo: me/model
    parameters: 1000
    layers: 3
    d_model: 10
    sets:
      - {name: small, repo: me/set/sub@v1, kind: cross-layer, features: 7, stored: 4}
"""


@pytest.fixture
def own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "models.yaml"
    monkeypatch.setenv("CIRCUIT_MODELS", str(path))
    return path


def test_every_published_set_is_listed_and_is_a_place_on_the_hub() -> None:
    models = {model.reference: model for model in registry.registry()}
    for reference, sets in PUBLISHED.items():
        assert tuple(entry.reference for entry in models[reference].sets) == sets
    gemma_3 = [name for name in models if name.startswith("google/gemma-3-")]
    assert len(gemma_3) == 10
    for model in models.values():
        assert model.gated == model.reference.startswith(("google/", "meta-llama/"))
        for entry in model.sets:
            place = hub.Reference.parse(entry.reference)
            assert bool(place.folder) == ("gemma-scope-2" in entry.reference)


def test_a_model_is_found_by_name_and_by_repository() -> None:
    by_name = registry.listed("gemma-2-2b", "clt-426k")
    assert by_name == registry.listed("google/gemma-2-2b", "mntss/clt-gemma-2-2b-426k")
    first = registry.listed("gemma-2-2b")
    assert first is not None and first[1].name == "gemma-scope"
    assert registry.listed("gemma-2-2b", "mine") is None
    assert registry.listed("gemma-9") is None


def test_memory_follows_from_the_shapes(own_list: Path) -> None:
    own_list.write_text(OWN)
    entry = registry.listed("mine", "small")
    assert entry is not None
    needs = registry.memory(*entry, "float32")
    matrix = 7 * 10 * 4
    assert (needs.model, needs.encoders, needs.decoders) == (4000, 3 * matrix, (3 + 2 + 1) * matrix)
    assert needs.whole == needs.least + 6 * matrix == 4000 + 9 * matrix
    halved = registry.memory(*entry, "bfloat16")
    assert halved.whole == needs.whole / 2
    npz = replace(entry[1], by_rows=False)
    assert registry.memory(entry[0], npz, "float32").least == needs.whole
    gemma = registry.listed("gemma-2-2b", "gemma-scope")
    assert gemma is not None
    encoders = registry.memory(*gemma, "float32").encoders
    assert encoders == 26 * 16384 * 2304 * 4


def test_what_is_not_known_is_not_made_up() -> None:
    entry = registry.listed("gpt-oss-20b")
    assert entry is not None
    needs = registry.memory(*entry, "bfloat16")
    assert (needs.encoders, needs.least, needs.whole) == (None, None, None)


def test_a_list_of_ones_own_adds_replaces_and_is_kept(own_list: Path) -> None:
    own_list.write_text(OWN.replace("name: mine", "name: gemma-2-2b"))
    assert registry.listed("gemma-2-2b", "small") is not None
    assert registry.listed("gemma-2-2b", "gemma-scope") is None
    own_list.write_text(OWN)
    mine = registry.registry()[0]
    assert mine.own and registry.listed("gemma-2-2b", "gemma-scope") is not None
    own_list.unlink()
    registry.add_own(mine)
    assert registry.registry()[0] == mine
    registry.remove_own("mine")
    assert registry.listed("mine") is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (": {", "cannot be read"),
        ("models: 3", "no list of models"),
        ("models: abc", "no list of models"),
        ("models: {a: b}", "no list of models"),
        ("- a\n- b", "no list of models"),
        ("models:\n  - 7", "expected keys and values"),
        ("models:\n  - {name: a, repo: b, colour: red}", "colour"),
        ("models:\n  - {name: a}", "no 'repo'"),
        ("models:\n  - {name: a, repo: b, layers: many}", "layers 'many'.*whole number"),
        ("models:\n  - {name: a, repo: b, gated: 1}", "gated 1.*true or false"),
        ("models:\n  - {name: a, repo: b}\n  - {name: a, repo: c}", "two models called 'a'"),
        ("models:\n  - {name: a, repo: b, sets: [{name: s, repo: t, kind: odd}]}", "kind 'odd'"),
    ],
)
def test_a_list_that_makes_no_sense_is_named(own_list: Path, text: str, named: str) -> None:
    own_list.write_text(text)
    with pytest.raises(RegistryError, match=named) as raised:
        registry.registry()
    assert "\n" not in str(raised.value)
