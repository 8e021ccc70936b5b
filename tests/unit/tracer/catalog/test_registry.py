"""The registry of models: its sizes, and the user's own list that adds to it."""

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


def test_every_published_set_is_listed_with_a_valid_hub_reference() -> None:
    models = {model.reference: model for model in registry.registry()}
    for reference, sets in PUBLISHED.items():
        assert tuple(entry.reference for entry in models[reference].sets) == sets
    gemma_3 = [name for name in models if name.startswith("google/gemma-3-")]
    assert len(gemma_3) == 10
    for model in models.values():
        assert model.gated == model.reference.startswith(("google/", "meta-llama/"))
        for entry in model.sets:
            parsed = hub.Reference.parse(entry.reference)
            assert bool(parsed.folder) == ("gemma-scope-2" in entry.reference)


def test_a_model_is_found_by_name_and_by_repository() -> None:
    by_name = registry.listed("gemma-2-2b", "clt-426k")
    assert by_name == registry.listed("google/gemma-2-2b", "mntss/clt-gemma-2-2b-426k")
    first = registry.listed("gemma-2-2b")
    assert first is not None and first[1].name == "gemma-scope"
    assert registry.listed("gemma-2-2b", "mine") is None
    assert registry.listed("gemma-9") is None


def test_memory_is_computed_from_the_shapes(own_list: Path) -> None:
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


def test_sizes_are_none_where_a_shape_is_unknown() -> None:
    entry = registry.listed("gpt-oss-20b")
    assert entry is not None
    needs = registry.memory(*entry, "bfloat16")
    assert (needs.encoders, needs.least, needs.whole) == (None, None, None)


def test_the_users_list_adds_and_replaces_models_and_is_saved(own_list: Path) -> None:
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


ENTRY = "models:\n  - {name: a, repo: b, "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: 3", "'models' is 3: expected a list"),
        ("models: {a: b}", "'models' is {'a': 'b'}: expected a list"),
        ("- a\n- b", "the content is ['a', 'b']: expected keys with values"),
        ("families: []", "'families' is not a known field: expected one of models"),
        ("models:\n  - 7", "models[0] is 7: expected keys with values"),
        ("models:\n  - {name: a}", "'repo' of model 'a' is missing"),
        ("models:\n  - {name: '', repo: b}", "'name' of model '' is '': expected text that is"),
        (
            ENTRY + "colour: red}",
            "'colour' of model 'a' is not a known field: expected one of name",
        ),
        (ENTRY + "layers: many}", "'layers' of model 'a' is 'many': expected a whole number"),
        (ENTRY + "layers: true}", "'layers' of model 'a' is True: expected a whole number"),
        (ENTRY + "layers: 0}", "'layers' of model 'a' is 0: expected a number above 0"),
        (ENTRY + "gated: 1}", "'gated' of model 'a' is 1: expected true or false"),
        (ENTRY + "sets: [7]}", "sets[0] of model 'a' is 7: expected keys with values"),
        (
            ENTRY + "sets: [{name: s, repo: t, kind: odd}]}",
            "'kind' of set 's' of model 'a' is 'odd': expected per-layer or cross-layer",
        ),
        (
            ENTRY + "sets: [{name: s, repo: t, neuronpedia: gemma}]}",
            "'neuronpedia' of set 's' of model 'a' is 'gemma': expected model/source set, such as",
        ),
        ("models:\n  - {name: a, repo: b}\n  - {name: a, repo: c}", "two models are called 'a'"),
    ],
)
def test_a_wrong_entry_is_named_with_its_value_and_what_is_expected(
    own_list: Path, text: str, message: str
) -> None:
    own_list.write_text(text)
    with pytest.raises(RegistryError) as raised:
        registry.registry()
    assert str(raised.value).startswith(f"{own_list}: {message}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (": {", "line 1: expected <block end>, but found ':'"),
        ("models: &a []", "line 1: anchors and aliases"),
        ("models: " + "[" * 10_000, "line 1: nested deeper than 20 levels"),
        (ENTRY + "layers: " + "9" * 5000 + "}", "line 2: a number of more than 40 digits"),
        (ENTRY + "layers: 3, layers: 4}", "line 2: the key 'layers' is repeated"),
        ("models: 2024-13-01", "month must be in 1..12"),
        ("#" * 10**6 + "\n", "it is larger than 1,000,000 bytes"),
    ],
)
def test_a_malformed_list_is_refused_in_one_sentence(own_list: Path, text: str, why: str) -> None:
    own_list.write_text(text)
    with pytest.raises(RegistryError) as raised:
        registry.registry()
    assert str(raised.value).startswith(f"the list of models {own_list} cannot be read ({why}")
    assert "set CIRCUIT_MODELS to another file" in str(raised.value)


def test_a_list_in_a_folder_that_may_not_be_searched_is_named(
    own_list: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(RegistryError, match=r"models\.yaml cannot be read \(Permission denied\)"):
        registry.registry()
