"""Graphs that circuit-tracer saved are read number for number, or the error names the fault."""

from __future__ import annotations

import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peer_graphs import (
    ACTIVE,
    N_LAYERS,
    SELECTED,
    HookedTransformerConfig,
    LogitTarget,
    N,
    UnifiedConfig,
    matrix,
    saved,
    stored,
    zipped,
)

import tracer
from tracer.errors import ExternalGraphError
from tracer.interchange import circuit_tracer_pt, safe_unpickle
from tracer.interchange.circuit_tracer_pt import read_graph_pt
from tracer.types import NodeId

pytestmark = pytest.mark.usefixtures("peer_records")


def test_every_number_of_the_file_is_in_the_graph() -> None:
    graph = read_graph_pt(saved(stored()))
    assert graph.features.tolist() == [[0, 1, 7], [1, 1, 0], [1, 2, 9]]
    assert graph.activations.tolist() == [1.0, 3.0, 4.0]
    assert graph.n_active_features == len(ACTIVE)
    assert graph.tokens == ("<bos>", "big", " dog") and graph.token_ids == (2, 5, 6)
    assert graph.prompt == "<bos>big dog" and graph.provenance["scan"] == "gemma"
    assert [(t.label, t.token_ids, round(t.probability, 3)) for t in graph.targets] == [
        (" bark", (11,), 0.7),
        (" run", (12,), 0.2),
    ]
    assert [entry.token for entry in graph.next_tokens] == [" bark", " run"]
    assert all(math.isnan(entry.logit) for entry in graph.next_tokens)
    in_order = [SELECTED.index(i) for i in (0, 2, 3)] + list(range(len(SELECTED), N))
    assert torch.equal(graph.to_dense(), matrix()[in_order][:, in_order])
    assert graph.n_edges == int((matrix() != 0).sum()) > 20


def test_the_graph_can_be_pruned_and_saved(tmp_path: Path) -> None:
    graph = read_graph_pt(saved(stored()))
    pruned = tracer.prune(graph, 0.5, 0.8)
    assert 0 < len(pruned.nodes) < graph.n_nodes and 0 < pruned.replacement_score < 1
    graph.save(tmp_path / "graph")
    assert torch.equal(tracer.load_graph(tmp_path / "graph").to_dense(), graph.to_dense())


def test_a_file_and_its_bytes_give_the_same_graph(tmp_path: Path) -> None:
    path = tmp_path / "dog.pt"
    path.write_bytes(saved(stored()))
    assert tracer.read_graph_pt(path).prompt == "<bos>big dog"
    with pytest.raises(ExternalGraphError, match=r"absent\.pt cannot be read: No such file"):
        read_graph_pt(tmp_path / "absent.pt")


def test_files_of_other_versions_are_read() -> None:
    current = read_graph_pt(saved(stored()))
    older = stored(
        logit_targets=None,
        logit_tokens=torch.tensor([11, 12]),
        cfg=HookedTransformerConfig(N_LAYERS, initializer_range=np.float64(0.02)),
        vocab_size=None,
        activation_values=torch.tensor([4.0, 1.0, 3.0]),  # of the selected ones
        adjacency_matrix=matrix().bfloat16(),
        input_tokens=torch.tensor([[2, 5, 6]], dtype=torch.int32),
        scan=["a", "b"],
    )
    graph = read_graph_pt(saved(older))
    assert [target.label for target in graph.targets] == ["token 11", "token 12"]
    assert graph.activations.tolist() == [1.0, 3.0, 4.0]
    assert graph.provenance["scan"] == "a, b"
    assert torch.equal(graph.to_dense(), current.to_dense().bfloat16().float())
    ids = read_graph_pt(saved(stored(logit_targets=torch.tensor([11, 12]))))
    assert [target.token_ids for target in ids.targets] == [(11,), (12,)]


def test_an_id_beyond_the_vocabulary_is_a_custom_direction() -> None:
    targets = [LogitTarget(" bark", 11), LogitTarget("loudness", 51)]
    graph = read_graph_pt(saved(stored(logit_targets=targets)))
    assert graph.targets[1].label == "loudness" and graph.targets[1].token_ids == ()
    assert graph.index.node(graph.n_nodes - 1) == NodeId("logit", N_LAYERS, 2, -2)


def test_token_strings_are_given_decoded_or_split_from_the_prompt() -> None:
    def texts(**options: Any) -> tuple[str, ...]:
        prompt = options.pop("prompt", "big dogs ran far")
        return read_graph_pt(saved(stored(input_string=prompt)), **options).tokens

    assert texts() == ("token 2", "token 5", "token 6")  # four words, three tokens
    assert texts(prompt="big dog!") == ("big", " dog", "!")
    assert texts(decode=lambda token: f"<{token}>") == ("<2>", "<5>", "<6>")
    assert texts(tokens=["a", "b", "c"]) == ("a", "b", "c")
    with pytest.raises(ExternalGraphError, match="has 3 tokens, but 1 strings were given"):
        texts(tokens=["a"])


def expanded() -> torch.Tensor:
    return torch.zeros(1).expand(N, N)


def nan_at(row: int, source: int) -> torch.Tensor:
    dense = matrix()
    dense[row, source] = math.nan
    return dense


def effect(row: int, source: int) -> torch.Tensor:
    dense = matrix()
    dense[row, source] = 1.0
    return dense


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adjacency_matrix": None}, "has no 'adjacency_matrix'"),
        ({"active_features": None}, "has no 'active_features'"),
        ({"cfg": None}, "has no 'cfg'"),
        ({"cfg": 3}, "cfg of the graph is a int"),
        ({"cfg": UnifiedConfig("two")}, "n_layers of the graph is 'two'"),
        ({"cfg": UnifiedConfig(10**9)}, "n_layers of the graph is 1000000000"),
        (
            {"cfg": UnifiedConfig(4097)},
            "n_layers of the graph is 4097, expected a number from 1 to",
        ),
        ({"input_tokens": torch.arange(11_000)}, "has 33,005 nodes, at most 32,768"),
        ({"cfg": UnifiedConfig(3)}, r"has shape \(14, 14\), expected \(17, 17\)"),
        (
            {"cfg": UnifiedConfig(1)},
            "goes up to layer 1 and position 2, but the model has 1 layers",
        ),
        ({"input_tokens": torch.tensor([2, 5])}, "the prompt 2 tokens"),
        ({"input_tokens": torch.zeros(0)}, "empty prompt"),
        (
            {"input_tokens": torch.tensor([2, 5, -6])},
            "input_tokens of the graph has numbers from -6",
        ),
        ({"input_tokens": torch.tensor([0.5, 1, 2])}, "has dtype torch.float32, expected integers"),
        ({"adjacency_matrix": matrix()[:-1]}, r"has shape \(13, 14\)"),
        ({"adjacency_matrix": "big"}, "adjacency_matrix of the graph is not a tensor"),
        ({"adjacency_matrix": expanded()}, "has a larger shape than data"),
        ({"adjacency_matrix": nan_at(0, 1)}, "adjacency_matrix of the graph has a number that is"),
        ({"adjacency_matrix": effect(1, 0)}, "effect that runs downward, or on an error"),
        ({"adjacency_matrix": effect(4, 10)}, "effect that runs downward, or on an error"),
        ({"adjacency_matrix": effect(10, 10)}, "effect that runs downward, or on an error"),
        ({"active_features": torch.zeros(5, 2, dtype=torch.long)}, r"shape \(5, 2\)"),
        ({"active_features": torch.tensor([[0, 1, -1]] * 5)}, "numbers from -1"),
        ({"active_features": torch.tensor([[0, 1, 2**40]] * 5)}, "to 1099511627776"),
        ({"active_features": torch.tensor([[0, 1, 1]] * 5)}, "same feature or target twice"),
        (
            {"selected_features": torch.tensor([5, 0, 2])},
            "goes up to 5, but there are 5 active features",
        ),
        ({"selected_features": torch.tensor([0, 0, 2])}, "same feature or target twice"),
        ({"activation_values": torch.zeros(4)}, "4 activations for 3 selected"),
        ({"activation_values": torch.full((5,), math.inf)}, "number that is not finite"),
        ({"logit_targets": None}, "has no logit_targets, expected at least one"),
        ({"logit_targets": []}, "has no logit_targets, expected at least one"),
        ({"logit_targets": 3}, "logit_targets of the graph is not a tensor"),
        ({"logit_targets": torch.tensor(11)}, "has 2 logit_probabilities for 1 targets"),
        (
            {"logit_targets": [LogitTarget("\ud800", 1)]},
            "a logit target of the graph is not valid U",
        ),
        ({"input_string": "\ud800"}, "input_string of the graph is not valid Unicode"),
        (
            {"activation_values": torch.full((5,), 1e300, dtype=torch.float64)},
            "number that is not finite",
        ),
        ({"input_tokens": [10**400]}, "input_tokens of the graph cannot be read as numbers"),
        ({"logit_targets": [LogitTarget("a", "b")]}, "has a str in it, expected numbers"),
        ({"logit_targets": [LogitTarget("a", 1), LogitTarget("b", 1)]}, "target twice"),
        ({"logit_probabilities": torch.tensor([0.7])}, "1 logit_probabilities for 2 targets"),
        ({"logit_probabilities": torch.tensor([0.7, -0.2])}, "none negative"),
        ({"vocab_size": "many"}, "vocab_size of the graph is 'many'"),
        ({"vocab_size": torch.tensor([1, 2])}, "vocab_size of the graph is a Tensor"),
    ],
)
def test_the_error_names_what_does_not_fit_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExternalGraphError, match=message):
        read_graph_pt(saved(stored(**changes)))


def test_a_truncated_file_or_pickle_is_one_error() -> None:
    content = saved(stored())
    for size in (0, 1, 3, 10, 200, 1000, len(content) // 2, len(content) - 1):
        with pytest.raises(ExternalGraphError):
            read_graph_pt(content[:size])
    for instructions in (b"\x80\x02", b"\x80\x02}", b"\x80\x02K\x01.", b"\x80\x02h\x07.", b"]."):
        with pytest.raises(ExternalGraphError):
            read_graph_pt(zipped(content, {"data.pkl": instructions}))
    with pytest.raises(ExternalGraphError, match="contains a list, expected the mapping"):
        read_graph_pt(saved([1]))
    with pytest.raises(ExternalGraphError, match=r"is not a \.pt file"):
        read_graph_pt(b'{"metadata": {}}')
    with pytest.raises(ExternalGraphError, match="is a bare pickle"):
        read_graph_pt(pickle.dumps({"scan": "gemma"}, protocol=2))


def test_compressed_and_too_large_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(stored())
    with pytest.raises(ExternalGraphError, match="is compressed"):
        read_graph_pt(zipped(content, {}, zipfile.ZIP_DEFLATED))
    monkeypatch.setattr(circuit_tracer_pt, "MAX_NODES", N - 1)
    with pytest.raises(ExternalGraphError, match=f"has {N} nodes, at most {N - 1}"):
        read_graph_pt(content)
    monkeypatch.setattr(safe_unpickle, "MAX_BYTES", len(content) - 1)
    with pytest.raises(ExternalGraphError, match=r"has .* kB, at most .* kB can be read"):
        read_graph_pt(content)
