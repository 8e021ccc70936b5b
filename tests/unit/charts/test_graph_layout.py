"""Where nodes are drawn: everything fits, nothing overlaps, what has no room is folded."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from charts.graph_cells import READABLE
from charts.graph_layout import GraphLayout, LayoutNode, layout_graph

WORDS = ("capital cities", "Texas", "say Austin", "state names in lists", "of, after a noun")


def random_graph(
    n_nodes: int, n_tokens: int = 9, n_layers: int = 26, seed: int = 0
) -> tuple[list[LayoutNode], list[str], int]:
    """Nodes crowded in the lower layers and the last column, as in real graphs."""
    random = np.random.default_rng(seed)
    tokens = ["<bos>", *(f" word{i}" for i in range(1, n_tokens))]
    columns = 1 + np.arange(n_tokens - 1) / 3
    columns[-1] *= 4
    layers = 1 / (1 + np.arange(n_layers)) + 0.12
    nodes = [
        LayoutNode(
            "error" if random.random() < 0.2 else "feature",
            int(random.choice(n_layers, p=layers / layers.sum())),
            1 + int(random.choice(n_tokens - 1, p=columns / columns.sum())),
            float(min(0.06, random.pareto(1.3) * 0.002)),
            WORDS[int(random.integers(len(WORDS)))],
        )
        for _ in range(n_nodes)
    ]
    nodes += [LayoutNode("token", -1, i, 0.05, "") for i in range(n_tokens)]
    nodes += [
        LayoutNode("logit", n_layers, n_tokens - 1, 0.5 / (i + 1), f"answer{i} 5 %")
        for i in range(10)
    ]
    return nodes, tokens, n_layers


GRAPHS = {
    "small": random_graph(24, 9, 5),
    "322 nodes": random_graph(304, 8, 26),
    "1,000 nodes": random_graph(978, 12, 26),
    "60 tokens": random_graph(600, 60, 12),
    "300 tokens": random_graph(900, 300, 12),
}
SIZES = ((930.0, 720.0), (600.0, 500.0), (1380.0, 800.0), (400.0, 420.0))
CASES = [
    pytest.param(GRAPHS[name], size, id=f"{name}-{size[0]:.0f}x{size[1]:.0f}")
    for name in GRAPHS
    for size in SIZES
]


def laid_out(
    graph: tuple[list[LayoutNode], list[str], int], size: tuple[float, float]
) -> GraphLayout:
    return layout_graph(*graph, *size)


@pytest.mark.parametrize(("graph", "size"), CASES)
def test_every_node_is_placed_or_folded_exactly_once(
    graph: tuple[list[LayoutNode], list[str], int], size: tuple[float, float]
) -> None:
    layout = laid_out(graph, size)
    seen = [placed.index for placed in layout.nodes]
    seen += [i for chip in layout.chips for i in chip.members]
    assert sorted(seen) == list(range(len(graph[0])))


@pytest.mark.parametrize(("graph", "size"), CASES)
def test_no_two_nodes_overlap_and_all_are_inside(
    graph: tuple[list[LayoutNode], list[str], int], size: tuple[float, float]
) -> None:
    layout = laid_out(graph, size)
    by_line: dict[float, list[float]] = {}
    for placed in layout.nodes:
        by_line.setdefault(round(placed.y, 1), []).append(placed.x)
        assert 0 <= placed.x <= layout.width and 0 <= placed.y <= layout.height
    for line in by_line.values():
        assert all(b - a >= 9 for a, b in itertools.pairwise(sorted(line)))
    lines = sorted(by_line)
    assert all(b - a >= 7 or math.isclose(a, b) for a, b in itertools.pairwise(lines))


@pytest.mark.parametrize(("graph", "size"), CASES)
def test_nodes_are_in_the_column_of_their_token_and_the_row_of_their_layer(
    graph: tuple[list[LayoutNode], list[str], int], size: tuple[float, float]
) -> None:
    layout = laid_out(graph, size)
    for placed in layout.nodes:
        node = graph[0][placed.index]
        if node.kind in ("feature", "error"):
            column, row = layout.columns[node.position], layout.rows[node.layer + 1]
            assert column.start <= placed.x <= column.stop
            assert row.start <= placed.y <= row.stop


@pytest.mark.parametrize("name", ["small", "322 nodes", "1,000 nodes"])
@pytest.mark.parametrize("size", SIZES[:3])
def test_a_short_prompt_fits_the_size_it_was_given(name: str, size: tuple[float, float]) -> None:
    layout = laid_out(GRAPHS[name], size)
    assert layout.width == size[0]
    assert layout.height <= size[1] + 1e-6


def test_a_real_sized_graph_keeps_its_names_and_folds_little() -> None:
    for size in ((970.0, 830.0), (800.0, 700.0)):  # 1440x900, without and with a sidebar
        layout = layout_graph(*GRAPHS["322 nodes"], *size)
        named = [placed for placed in layout.nodes if placed.name]
        assert len(named) >= 30
        assert sum(len(chip.members) for chip in layout.chips) <= 3
    assert layout.columns[-1].stop - layout.columns[-1].start >= 0.15 * layout.width


def test_a_long_prompt_is_wider_than_the_window_and_its_columns_stay_readable() -> None:
    graph = GRAPHS["300 tokens"]
    layout = layout_graph(*graph, 930.0, 720.0)
    assert layout.width > 5000
    occupied = {node.position for node in graph[0] if node.kind == "feature"}
    for position in occupied:
        column = layout.columns[position]
        assert column.stop - column.start >= 27


def test_the_most_influential_nodes_are_named_and_a_name_is_long_enough_to_read() -> None:
    nodes, tokens, n_layers = GRAPHS["322 nodes"]
    layout = layout_graph(nodes, tokens, n_layers, 930.0, 720.0)
    named = {placed.index: placed.name for placed in layout.nodes if placed.name}
    features = [i for i, node in enumerate(nodes) if node.kind == "feature"]
    strongest = sorted(features, key=lambda i: -nodes[i].influence)[:8]
    assert sum(i in named for i in strongest) >= 6
    for i, name in named.items():
        assert len(name) >= min(len(nodes[i].name), READABLE) - 1


def test_chosen_nodes_are_never_folded() -> None:
    nodes, tokens, n_layers = GRAPHS["1,000 nodes"]
    folded = layout_graph(nodes, tokens, n_layers, 600.0, 500.0).chips
    keep = {chip.members[-1] for chip in folded[:20] if chip.layer < n_layers}
    kept = layout_graph(nodes, tokens, n_layers, 600.0, 500.0, keep)
    assert keep <= {placed.index for placed in kept.nodes}


def test_errors_are_folded_before_features() -> None:
    nodes = [LayoutNode("error", 0, 1, 0.9, "", is_minor=True) for _ in range(30)]
    nodes += [LayoutNode("feature", 0, 1, 0.001, "") for _ in range(10)]
    layout = layout_graph(nodes, ["<bos>", " a"], 1, 130.0, 220.0)
    folded = Counter(nodes[i].kind for chip in layout.chips for i in chip.members)
    assert folded["error"] > 0 and folded["feature"] == 0


def test_two_tokens_of_one_column_are_side_by_side() -> None:
    nodes = [LayoutNode("token", -1, 0, 0.1, ""), LayoutNode("token", -1, 0, 0.1, "")]
    first, second = layout_graph(nodes, [" Dallas / Oakland"], 2, 600.0, 400.0).nodes
    assert second.x - first.x > 8 and first.y == second.y


def test_a_prompt_without_nodes_has_its_columns_all_the_same() -> None:
    layout = layout_graph([], ["<bos>", " a", " b"], 3, 600.0, 400.0)
    assert [column.name for column in layout.columns] == ["<bos>", "a", "b"]
    assert not layout.nodes and not layout.chips
