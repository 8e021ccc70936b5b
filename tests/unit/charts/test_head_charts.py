"""Attention heads in words, rows and figures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from example_graphs import dallas_graph

from charts.attention_figures import pairs_figure, pattern_figure, strip_figure
from charts.edit_groups import head_line
from charts.heads import (
    carrier_rows,
    check_sentence,
    check_table,
    does_text,
    head_edges_table,
    head_id,
    head_of,
    heads_json,
    heads_table,
    hop_sentence,
    part_rows,
    source_name,
)
from charts.palette import DARK, LIGHT
from tracer.attention.edge_heads import EdgeHeads, Habit
from tracer.attention.sources import Source
from tracer.attention.summaries import HeadLook, NodeHeads, PairPart, Part
from tracer.interventions.head_check import PairCheck
from tracer.interventions.head_edit import HeadEdit
from tracer.types import NodeId

TOKENS = ("<bos>", " capital", " <b>", " is")
NAN = float("nan")
QUIET = Habit(0.1, 0.2, 0.3, NAN, NAN)
PREVIOUS = Habit(0.1, 0.1, 0.7, NAN, NAN)
FEATURE = Source("feature", 2, 1, 529)


def node_answer() -> NodeHeads:
    return NodeHeads(
        node=NodeId("logit", 2, 3, 9),
        value=4.0,
        n_heads=2,
        sources=(FEATURE,),
        weights=np.array([4.0, 1.0]),
        parts=np.array([[1.0, 0.0, 0.5, 0.0, -2.5], [0.0, 0.0, 0.0, 0.0, 1.0]]),
        hops=np.array([[0.25, 0.75, 0, 0], [0, 1, 0, 0]]),
        moved=np.arange(16, dtype=float).reshape(2, 2, 4) * [[[1, 1, -1, 0]]],
    )


def look(versus: int | str | None = None, sink: float = 0.0) -> HeadLook:
    return HeadLook(
        layer=1,
        head=1,
        query=2,
        key=1,
        versus=versus,
        tokens=TOKENS,
        score=1.5,
        slope=1.0,
        sink=sink,
        pattern=np.array([0.1, 0.7, 0.2, 0.0]),
        patterns=np.tri(4) / np.arange(1, 5)[:, None],
        visible=np.arange(3),
        looks_for=(Part(FEATURE, 1.0), Part(Source("bias", -1, -1, -1), -0.5)),
        finds=(Part(Source("token", -1, 1, 7), 1.5),),
        pairs=(PairPart(FEATURE, Source("token", -1, 1, 7), 1.2),),
    )


def test_carriers_say_their_share_and_the_word_they_moved_most_from() -> None:
    direct, *heads = sorted(carrier_rows(node_answer(), 0, TOKENS), key=lambda row: row["name"])[
        ::-1
    ]
    assert direct["name"] == "direct" and direct["where"] == "25 %"
    strongest = carrier_rows(node_answer(), 0, TOKENS)[0]
    assert strongest["name"] == "L1 H1" and strongest["weight"] == -2.5
    assert strongest["where"].startswith("62 % · from <b>") and len(heads) == 2
    (only, rest) = carrier_rows(node_answer(), 1, TOKENS)
    assert only["where"] == "100 %" and only["id"] == "head-1-1"
    assert rest["name"] == "direct" and rest["weight"] == 0


def test_ids_of_heads_survive_the_browser_and_nothing_else_does() -> None:
    assert head_of(head_id(11, 3)) == (11, 3)
    for text in ("feature-1-2-3", "head-1", "head-1-x", "head--1-2", None, 4, "direct"):
        assert head_of(text) is None


def test_hops_leave_out_what_is_nothing() -> None:
    assert hop_sentence([0, 1, 0, 0]) == "Attention steps: one 100 %."
    assert hop_sentence([0, 0, 0, 0]) == ""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (FEATURE, ("about Texas", "layer 2 at “capital”")),
        (Source("feature", 2, 1, 8), ("feature 8", "layer 2 at “capital”")),
        (Source("error", 1, 3, -1), ("error node", "layer 1 at “is”")),
        (Source("token", -1, 2, 5), ("<b>", "position 2")),
        (Source("position", -1, 2, -1), ("position", "position 2")),
        (Source("start", 1, 0, -1), ("MLP of layer 1", "at the first token")),
        (Source("bias", -1, -1, -1), ("biases", "constant")),
    ],
)
def test_every_kind_of_source_has_a_name(source: Source, expected: tuple[str, str]) -> None:
    names = {(2, 529): "about Texas"}
    assert source_name(source, TOKENS, lambda f: names.get(tuple(f))) == expected
    (row,) = part_rows([Part(source, -0.5)], TOKENS, lambda f: None)
    assert row["weight"] == -0.5 and row["share"] == 1 and row["id"] == str(source)


def test_what_a_head_does_is_said_in_words() -> None:
    words = does_text(1, 3, PREVIOUS, TOKENS)
    assert words == "looks at the previous token (70 %), from “capital” to “is”"
    assert does_text(1, 1, QUIET, TOKENS) == "stays at “capital”"
    assert does_text(-1, -1, QUIET, TOKENS) == "carries nothing here"


def test_heads_are_listed_exported_and_have_edges() -> None:
    graph = dallas_graph()
    source, target = int(graph.sources[0]), int(graph.rows[0])
    heads = EdgeHeads(
        index=graph.index,
        sources=np.array([source]),
        targets=np.array([target]),
        weights=np.array([2.0]),
        direct=np.array([0.5]),
        heads=np.array([[[1.5, 0.0]]]),
        habits=((PREVIOUS, QUIET),),
    )
    table = heads_table(heads, graph.tokens)
    assert table["head"].tolist() == ["L0 H0", "L0 H1"]
    assert table["carries"].tolist() == [0.75, 0.0] and table["edges"].tolist() == [1, 0]
    edges = head_edges_table(heads, 0, 0, str)
    assert edges["carried"].tolist() == [1.5]
    assert edges["share of the edge"].tolist() == [0.75]
    assert edges["from"].tolist() == [str(graph.index.node(source))]
    assert head_edges_table(heads, 0, 1, str).empty
    exported = json.loads(json.dumps(heads_json(heads, graph)))
    assert exported["edges"][0]["heads"] == {"0.0": 1.5}
    assert exported["heads"]["0.0"]["share"] == 0.75


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_figures_show_the_query_and_escape_its_words(palette: object) -> None:
    figure = strip_figure(look(versus=0), palette)  # type: ignore[arg-type]
    (bars,) = figure.data
    assert list(bars.x) == [0, 1, 2] and list(bars.customdata) == [0, 1, 2]
    assert list(bars.y) == pytest.approx([0.1, 0.7, 0.2])
    assert len({bars.marker.color[0], bars.marker.color[1], bars.marker.color[2]}) == 3
    assert "&lt;b&gt;" in figure.layout.xaxis.ticktext[2]
    heat = pattern_figure(look(), palette).data[0]  # type: ignore[arg-type]
    assert np.isnan(heat.z[0][1]) and heat.z[3][0] == pytest.approx(0.25)


def test_pairs_are_ribbons_between_two_columns() -> None:
    pairs = [("capital", "about Texas", 2.0), ("capital", "biases", -1.0), ("is", "biases", 0.5)]
    figure = pairs_figure(pairs)
    widths = [line.line.width for line in figure.data]
    assert widths == sorted(widths, reverse=True) and len(widths) == 3
    assert [line.line.dash for line in figure.data] == ["solid", "dash", "solid"]
    assert [note.text for note in figure.layout.annotations] == [
        "capital",
        "is",
        "about Texas",
        "biases",
    ]
    assert len(pairs_figure([]).data) == 0


def test_a_check_is_shown_next_to_its_controls() -> None:
    check = PairCheck(
        edit=HeadEdit(4, 0, "score", 8, 7, -0.9),
        target=" Austin",
        attention_before=0.81,
        attention_after=0.62,
        predicted=-0.096,
        direct=-0.0961,
        frozen=-0.03,
        free=-0.029,
        random_pairs=(0.0001, -0.0002),
        other_heads=(("L0 H1", 0.05), ("L2 H0", -0.12)),
    )
    table = check_table(check)
    assert table.columns[1] == "change of the logit of Austin"
    assert table.iloc[:, 1].tolist() == [-0.096, -0.0961, -0.03, -0.029, -0.0002, -0.12]
    assert "L2 H0" in table.iloc[5, 0]
    assert "falls from 81 % to 62 %" in check_sentence(check, 3)


def test_edits_of_heads_are_described() -> None:
    assert head_line(HeadEdit(4, 0, "off"), TOKENS) == "off: head L4 H0"
    assert head_line(HeadEdit(4, 0, "freeze"), TOKENS) == "pattern frozen: head L4 H0"
    line = head_line(HeadEdit(4, 0, "score", -1, 1, -0.5), TOKENS)
    assert line == "add −0.5 to the score of head L4 H0 from “is” to “capital”"
    assert "position 9" in head_line(HeadEdit(4, 0, "score", 9, 1, 1.0), TOKENS)
