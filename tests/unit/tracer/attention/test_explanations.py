"""A head's score is the sum over pairs of sources, on all families, and oracles agree with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from attention_sets import SETS

import tracer
from tracer import Edit, FeatureId, Scenario
from tracer.attention.explain import explain
from tracer.attention.results import AttentionExplanation
from tracer.attention.score import HeadScores
from tracer.attribution.cuts import CutModel
from tracer.errors import AttentionError
from tracer.interventions.edit_hooks import EditedRun, names_to_capture, scale_names
from tracer.interventions.edit_rows import check_row
from tracer.model.attention import attention_weights
from tracer.model.model import Model

LAYER, HEAD, QUERY, KEY, OTHER = 2, 3, 5, 3, 4
"""The keys are inside the window of four positions that some families have."""


def captured_scores(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores and the attention weights of the query, from the model itself."""
    names = [f"blocks.{LAYER}.attn.hook_{name}" for name in ("attn_scores", "pattern")]
    _, captured = model.bridge.capture(torch.tensor(tiny.IDS), names)
    scores, pattern = (captured[name][HEAD, QUERY].numpy() for name in names)
    return scores, pattern


def assert_adds_up(why: AttentionExplanation) -> None:
    size = np.abs(why.query).sum() + np.abs(why.key).sum()
    assert abs(why.query.sum() - why.score) < 1e-5 * size
    assert abs(why.key.sum() - why.score) < 1e-5 * size
    matrix = why.pair_matrix()
    assert abs(matrix.sum() - why.score) < 1e-5 * size
    assert np.allclose(matrix.sum(axis=1), why.query, atol=1e-6 * size)
    assert np.allclose(matrix.sum(axis=0), why.key, atol=1e-6 * size)


@pytest.mark.parametrize("transcoders", SETS)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_score_is_the_sum_of_its_pairs(
    open_tiny: Callable[..., Model], architecture: str, transcoders: str
) -> None:
    model = open_tiny(architecture, **SETS[transcoders])
    scores, pattern = captured_scores(model)
    cuts = CutModel(model, tiny.IDS)
    head = HeadScores(cuts, LAYER, HEAD)
    why = explain(cuts, head, QUERY, KEY, None)
    assert why.score == pytest.approx(float(scores[KEY]), rel=1e-5, abs=1e-5)
    assert why.pattern[KEY] == pytest.approx(float(pattern[KEY]), rel=1e-5)
    assert_adds_up(why)
    other = explain(cuts, head, QUERY, KEY, OTHER)
    log_ratio = float(np.log(pattern[KEY] / pattern[OTHER]))
    assert other.score == pytest.approx(log_ratio, rel=1e-4, abs=1e-5)
    assert_adds_up(other)
    rest = explain(cuts, head, QUERY, KEY, "rest")
    assert_adds_up(rest)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_formula_gives_the_scores_of_the_model(
    open_tiny: Callable[..., Model], architecture: str
) -> None:
    """Rotation, norms, shared key heads and soft caps, in every layer and head."""
    model = open_tiny(architecture)
    cuts = CutModel(model, tiny.IDS)
    for layer in range(model.n_layers):
        for head in range(4):
            scores = HeadScores(cuts, layer, head)
            visible = torch.stack([scores.visible(query) for query in range(len(tiny.IDS))])
            assert visible.diagonal().all() and not visible.triu(1).any()
            formula, model_scores = scores.capped(scores.raw)[visible], scores.scores[visible]
            assert torch.allclose(formula, model_scores, rtol=1e-5, atol=1e-5)


def test_the_families_differ_where_the_table_says_so(open_tiny: Callable[..., Model]) -> None:
    """Without these traits in the random models, the test of all families would prove little."""
    weights = {name: attention_weights(open_tiny(name).bridge, 1) for name in tiny.ARCHITECTURES}
    assert weights["gemma2"].soft_cap == 50 and weights["llama"].soft_cap is None
    sinks = weights["gpt_oss"].sinks
    assert sinks is not None and sinks.abs().min() > 0
    for name in ("gpt2", "neox", "qwen2", "gpt_oss"):
        assert weights[name].b_Q is not None and weights[name].b_K is not None
    assert {name for name, of in weights.items() if of.q_norm is not None} == {
        "qwen3", "gemma3", "gemma3_multimodal", "olmo2",
    }  # fmt: skip
    shared = {name for name, of in weights.items() if len(of.W_K) < len(of.W_Q)}
    assert shared == set(tiny.ARCHITECTURES) - {"gpt2", "neox", "olmo2"}


def run_with_everything_frozen(model: Model, edit: Edit) -> torch.Tensor:
    """Return the scores ``(query, key)`` after an edit with MLPs, patterns and norms frozen."""
    every_layer = tuple(range(model.n_layers))
    row = check_row(model, Scenario("", (edit,), True, every_layer), len(tiny.IDS))
    ids = torch.tensor(tiny.IDS)
    _, before = model.bridge.capture(ids, names_to_capture(model, [row]))
    run, scores = EditedRun(model, [row], before), []
    name = f"blocks.{LAYER}.attn.hook_attn_scores"
    run.hooks.append((name, lambda value, hook: scores.append(value[0, HEAD])))
    run(ids)
    return scores[0]


@pytest.mark.parametrize("transcoders", SETS)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_removing_a_feature_changes_the_frozen_score_as_its_pairs_say(
    open_tiny: Callable[..., Model], architecture: str, transcoders: str
) -> None:
    """The model itself runs with everything but the feature frozen."""
    model = open_tiny(architecture, **SETS[transcoders])
    cuts = CutModel(model, tiny.IDS)
    head = HeadScores(cuts, LAYER, HEAD)
    why = explain(cuts, head, QUERY, KEY, None)
    n_features = len(cuts.frozen.features)
    reach = np.abs(why.query) + np.abs(why.key)
    raw = float(head.raw[QUERY, KEY])
    for column in np.argsort(-reach[:n_features])[:3].tolist():
        layer, position, feature = cuts.frozen.host_features[column].tolist()
        edit = Edit(FeatureId(layer, feature), position, position + 1, "scale", 0.0)
        after = float(run_with_everything_frozen(model, edit)[QUERY, KEY])
        removed = why.query[column] + why.key[column] - why.pair(column, column)
        assert abs(removed) > 1e-3, "the feature matters"
        predicted = raw - removed * raw / why.score
        expected = float(head.capped(torch.tensor(predicted)))
        assert after == pytest.approx(expected, rel=1e-4, abs=2e-5)


def autograd_marginals(model: Model, cuts: CutModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the score before a cap, and its gradient times each token's embedding, by autograd.

    Runs the library's model with patterns, norm scales and MLP outputs overwritten by constants.
    """
    bridge = model.bridge._bridge
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.n_layers)]
    names += [f"blocks.{layer}.mlp.hook_out" for layer in range(model.n_layers)]
    names += [*scale_names(model), "embed.hook_out"]
    _, constant = model.bridge.capture_batch(torch.tensor([tiny.IDS]), names)
    embedding = constant.pop("embed.hook_out").clone().requires_grad_(True)
    vectors: dict[str, torch.Tensor] = {}
    prefix = f"blocks.{LAYER}.attn.hook_"

    def fixed(name: str) -> Callable[[torch.Tensor, Any], torch.Tensor]:
        return lambda value, hook: constant[name]

    def keep(name: str) -> Callable[[torch.Tensor, Any], None]:
        def hook(value: torch.Tensor, hook: Any) -> None:
            vectors[name] = value

        return hook

    hooks = [(name, fixed(name)) for name in constant]
    hooks.append(("embed.hook_out", lambda value, hook: embedding))
    rotated = model.bridge.has_hook(f"{prefix}rot_q") and "neox" not in model.source.name
    kept = ("rot_q", "rot_k") if rotated else ("attn_scores",)
    hooks += [(prefix + name, keep(name)) for name in kept]
    with torch.enable_grad():
        bridge.run_with_hooks(torch.tensor([tiny.IDS]), fwd_hooks=hooks)
        if rotated:
            query, key = vectors["rot_q"][0, QUERY, HEAD], vectors["rot_k"][0, KEY]
            key = key[HEAD * len(key) // vectors["rot_q"].shape[2]]
            score = query @ key * attention_weights(model.bridge, LAYER).scaling
        else:
            score = vectors["attn_scores"][0, HEAD, QUERY, KEY]
        score.backward()
    assert embedding.grad is not None
    return score.detach(), (embedding.grad[0] * embedding.detach()[0]).sum(dim=1)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_autograd_gives_the_same_marginals(
    open_tiny: Callable[..., Model], architecture: str
) -> None:
    """A score is bilinear: its gradient on a token is what the token adds on both sides."""
    model = open_tiny(architecture)
    cuts = CutModel(model, tiny.IDS)
    head = HeadScores(cuts, LAYER, HEAD)
    why = explain(cuts, head, QUERY, KEY, None)
    score, by_token = autograd_marginals(model, cuts)
    raw = float(head.raw[QUERY, KEY])
    assert float(score) == pytest.approx(raw, rel=1e-4, abs=1e-5)
    first = len(cuts.frozen.features) + model.n_layers * len(tiny.IDS)
    tokens = slice(first, first + len(tiny.IDS))
    ours = (why.query + why.key)[tokens] * raw / why.score
    assert by_token.abs().max() > 1e-3
    assert ours == pytest.approx(by_token.numpy(), rel=1e-3, abs=1e-5)


def test_the_strongest_pairs_are_exactly_those_of_the_matrix(model: Model) -> None:
    why = tracer.explain_attention(model, tiny.PROMPT, LAYER, HEAD, QUERY, KEY, "rest")
    matrix = why.pair_matrix()
    for k in (1, 7, 60):
        order = np.argsort(-np.abs(matrix), axis=None, kind="stable")[:k]
        expected = matrix.flat[order]
        pairs = why.pairs(k)
        weights = [pair.weight for pair in pairs]
        assert np.abs(weights) == pytest.approx(np.abs(expected), rel=1e-6)
        for pair in pairs:
            assert matrix[pair.query, pair.key] == pytest.approx(pair.weight, rel=1e-6)
        assert len({(pair.query, pair.key) for pair in pairs}) == k


def test_groups_and_components_add_up(model: Model) -> None:
    why = tracer.explain_attention(model, tiny.PROMPT, LAYER, HEAD, QUERY, KEY)
    n = len(why.sources)
    groups = [list(range(0, n, 2)), list(range(1, n, 2))]
    sums = why.grouped(groups)
    matrix = why.pair_matrix()
    assert sums[0, 1] == pytest.approx(matrix[::2, 1::2].sum(), abs=1e-6)
    assert sums.sum() == pytest.approx(why.score, abs=1e-4)
    components = why.components()
    assert components.sum() == pytest.approx(why.score, abs=1e-4)
    assert list(np.abs(components)) == sorted(np.abs(components), reverse=True)


@pytest.mark.parametrize("versus", [None, OTHER, "rest"])
def test_under_a_tight_soft_cap_terms_add_up_to_capped_scores(
    open_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch, versus: int | str | None
) -> None:
    """The random models' scores are far below Gemma 2's cap of 50."""
    model = open_tiny("gemma2")
    attention = model.bridge._bridge.blocks[LAYER].attn._original_component
    monkeypatch.setattr(attention, "attn_logit_softcapping", 0.5)
    scores, pattern = captured_scores(model)
    cuts = CutModel(model, tiny.IDS)
    head = HeadScores(cuts, LAYER, HEAD)
    why = explain(cuts, head, QUERY, KEY, versus)
    assert 0 < why.slope < 0.95 and why.slope == pytest.approx(1 - (scores[KEY] / 0.5) ** 2)
    assert_adds_up(why)
    if versus is None:
        assert why.score == pytest.approx(float(scores[KEY]), abs=1e-5)
    elif versus == OTHER:
        log_ratio = float(np.log(pattern[KEY] / pattern[OTHER]))
        assert why.score == pytest.approx(log_ratio, abs=1e-5)


def test_a_sink_is_a_competitor_with_a_constant_score(open_tiny: Callable[..., Model]) -> None:
    model = open_tiny("gpt_oss")
    _, pattern = captured_scores(model)
    why = tracer.explain_attention(model, tiny.IDS, LAYER, HEAD, QUERY, KEY, "sink")
    left = 1 - float(pattern.sum())
    assert why.sink == pytest.approx(left, abs=1e-5) and left > 0.01
    assert why.score == pytest.approx(float(np.log(pattern[KEY] / left)), abs=1e-4)
    assert_adds_up(why)
    assert why.pairs(3) and why.constant != 0


def test_the_rest_is_how_the_log_odds_change(model: Model) -> None:
    """The mean of the others by attention weight: their scores' first order."""
    scores, pattern = captured_scores(model)
    why = tracer.explain_attention(model, tiny.PROMPT, LAYER, HEAD, QUERY, KEY, "rest")
    others = [key for key in range(QUERY + 1) if key != KEY]
    shares = pattern[others] / (1 - pattern[KEY])
    assert why.score == pytest.approx(float(scores[KEY] - shares @ scores[others]), abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": 3}, "layer 3 does not exist: .* has layers 0 to 2"),
        ({"head": 4}, "head 4 does not exist: layer 2 of .* has heads 0 to 3"),
        ({"head": -1}, "head -1 does not exist"),
        ({"query": 6}, "query position 6 does not exist: the prompt has 6 tokens, positions 0 to"),
        ({"key": -7}, "key position -7 does not exist"),
        ({"query": 2}, "key position 3 comes after query position 2: a head looks only at its own"),
        ({"versus": 3}, "versus is position 3, which is the key itself"),
        ({"versus": 9}, "versus position 9 does not exist"),
        ({"query": 4, "versus": 5}, "versus position 5 comes after query position 4"),
        ({"versus": "others"}, "versus is 'others': give another position, 'rest', 'sink', or"),
        ({"versus": "sink"}, "has no attention sinks"),
        ({"query": 0, "key": 0, "versus": "rest"}, "position 0 is the only one that position 0"),
    ],
)
def test_a_bad_question_is_answered_with_a_sentence(
    model: Model, arguments: dict[str, Any], message: str
) -> None:
    asked = {"layer": LAYER, "head": HEAD, "query": QUERY, "key": KEY} | arguments
    with pytest.raises(AttentionError, match=message):
        tracer.explain_attention(model, tiny.PROMPT, **asked)


def test_a_key_outside_the_window_is_refused(open_tiny: Callable[..., Model]) -> None:
    with pytest.raises(
        AttentionError,
        match="key position 1 is outside the window of layer 1: "
        "from position 5 its heads see positions 2 to 5",
    ):
        tracer.explain_attention(open_tiny("mistral"), tiny.IDS, 1, 0, 5, 1)


def test_an_unknown_kind_of_score_is_refused_by_name(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ALiBi and other additions to a score show as a difference from query times key."""
    capture = model.bridge.capture

    def with_distance(*arguments: Any, **more: Any) -> Any:
        logits, captured = capture(*arguments, **more)
        for name, value in captured.items():
            if name.endswith("hook_attn_scores"):
                n = value.shape[-1]
                distance = torch.arange(n)[:, None] - torch.arange(n)
                captured[name] = value - 0.5 * distance
        return logits, captured

    monkeypatch.setattr(model.bridge, "capture", with_distance)
    with pytest.raises(
        AttentionError,
        match=r"\(LlamaForCausalLM\) cannot be split into pairs of "
        "sources: they differ from query times key",
    ):
        tracer.explain_attention(model, tiny.PROMPT, LAYER, HEAD, QUERY, KEY)
    monkeypatch.undo()
    has_hook = model.bridge.has_hook
    monkeypatch.setattr(
        model.bridge, "has_hook", lambda name: "hook_k" not in name and has_hook(name)
    )
    with pytest.raises(AttentionError, match="it has no hook_k"):
        tracer.explain_attention(model, tiny.PROMPT, LAYER, HEAD, QUERY, KEY)


def test_a_graph_and_its_prompt_give_the_same_answer(model: Model) -> None:
    graph = tracer.trace(model, tiny.PROMPT, max_features=3)
    of_graph = tracer.explain_attention(model, graph, LAYER, HEAD, -1, KEY)
    of_prompt = tracer.explain_attention(model, tiny.PROMPT, LAYER, HEAD, QUERY, KEY)
    assert np.array_equal(of_graph.query, of_prompt.query) and of_graph.position == QUERY
