"""Pins, supernodes and labels in every form that front ends write, from files and from links."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from published_graphs import published, read

from tracer.__main__ import main
from tracer.errors import ExternalGraphError
from tracer.interchange.convert import graph_from_external
from tracer.interchange.graph_json import cantor_pair, write_graph_json
from tracer.interchange.links import (
    GraphLink,
    add_marks,
    link_marks,
    marks_sentence,
    read_link,
)
from tracer.interchange.marks import external_annotations, with_annotations
from tracer.interchange.nodes import stored_labels
from tracer.types import FeatureId, NodeId, Supernode

BIG, DOG = NodeId("feature", 0, 1, 7), NodeId("feature", 1, 2, 9)
ERROR, BARK = NodeId("error", 1, 2, -1), NodeId("logit", 2, 2, 11)


@pytest.mark.parametrize(
    "key",
    [
        "1_9_2",  # the node's id
        "1_9_2-0",  # its id in the page
        f"{cantor_pair(1, 9)}",  # the feature's number, paired
        "100009",  # the same in older files
        f"1_{cantor_pair(1, 9)}_2",  # layer, number and position
        "1_100009_2",
        "9",  # the plain index, where features of one layer alone have it
    ],
)
@pytest.mark.parametrize("form", ["pairs", "mapping", "text"])
def test_labels_are_read_by_every_key(key: str, form: str) -> None:
    pairs: Any = [[key, "barks"]]
    stored = published()
    stored["qParams"]["clerps"] = {
        "pairs": pairs,
        "mapping": dict(pairs),
        "text": json.dumps(pairs),
    }[form]
    graph = graph_from_external(read(stored))
    assert stored_labels(graph) == {FeatureId(1, 9): "barks"}
    link = GraphLink("s", clerps=((key, "barks"),))
    if not key.endswith("-0"):  # an id of a page, which no traced graph has
        assert link_marks(link, graph).labels == {FeatureId(1, 9): "barks"}


def test_two_supernodes_of_one_name_stay_two(tmp_path: Path) -> None:
    stored = published()
    stored["qParams"]["supernodes"] = [["supernode", "0_7_1"], ["supernode", "1_9_2", "3_11_2"]]
    external = read(stored)
    pinned, groups = external_annotations(external)
    assert groups == (
        Supernode("supernode", (BIG,)),
        Supernode("supernode (2)", (DOG, BARK)),
    )
    assert write_graph_json(with_annotations(external, pinned, groups)) == external.original
    changed = with_annotations(external, pinned, (groups[0], Supernode("supernode (2)", (DOG,))))
    written = json.loads(write_graph_json(changed))["qParams"]["supernodes"]
    assert written == [["supernode", "0_7_1"], ["supernode", "1_9_2"]]


LINK = (
    "https://www.neuronpedia.org/gemma-2-2b/graph?slug=s&pinnedIds=0_7_1%2C0_1_2%2C9_9_9"
    f"&supernodes={quote(json.dumps([['size', '1_9_2', '3_11_2'], ['size', '0_7_1']]))}"
    f"&clerps={quote(json.dumps([['1_9_2', 'barks']]))}&clickedId=1_9_2"
)


@pytest.mark.parametrize(
    "link",
    [
        LINK,
        f"  {LINK}\n",
        LINK.removeprefix("https://"),
        LINK.replace("https://www.neuronpedia.org/gemma-2-2b/graph", "http://localhost:8041/"),
    ],
)
def test_a_pasted_link_gives_its_marks(link: str) -> None:
    parsed = read_link(link)
    assert (parsed.slug, parsed.model) == ("s", None if "localhost" in link else "gemma-2-2b")
    marks = link_marks(parsed, graph_from_external(read(published())))
    assert marks.pinned == (ERROR,)  # the other one is in a supernode
    assert marks.supernodes == (Supernode("size", (DOG, BARK)), Supernode("size (2)", (BIG,)))
    assert marks.labels == {FeatureId(1, 9): "barks"} and marks.missing == ("9_9_9",)


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("https://example.org", "is not a link to a graph, expected one such as https://"),
        ("javascript:alert(1)", "is not a link to a graph"),
        ("ftp://a.org/graph?slug=x", "is not a link to a graph"),
        ("https://[x", "is not a link to a graph"),
        ("https://neuronpedia.org/../graph?slug=x", "is not a link to a graph"),
        ("x" * 200_001, "the link has 200,001 characters, at most 200,000 can be read"),
        ("https://a.org/?slug=x&pinnedIds=" + ",".join(["a"] * 10_001), "has 10,001 pins, at most"),
        ("https://a.org/?slug=x&pinnedIds=" + "a" * 401, "has an id or a name of 401 characters"),
        ("https://a.org/?slug=x&supernodes=[3]", "supernodes of the link cannot be read"),
        ("https://a.org/?slug=%FF", "characters that are not UTF-8"),
    ],
)
def test_a_link_that_cannot_be_read_is_one_sentence(link: str, message: str) -> None:
    with pytest.raises(ExternalGraphError, match=message) as caught:
        read_link(link)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_marks_of_a_link_are_added_to_those_that_are_there() -> None:
    """Pins go on, a supernode keeps its nodes, and adding the same link twice changes nothing."""
    graph = graph_from_external(read(published()))
    marks = link_marks(read_link(LINK), graph)
    mine = Supernode("size", (DOG,), "#aa0000")
    pins, groups = add_marks([BIG], [mine], marks)
    assert pins == (ERROR,)
    assert groups == (mine, Supernode("size (3)", (BARK,)), Supernode("size (2)", (BIG,)))
    assert add_marks(pins, groups, marks) == (pins, groups)
    assert marks_sentence(marks) == (
        "The link has 1 pin, 2 supernodes and 1 label. 1 node of the link is not in this graph."
    )
    nothing = link_marks(GraphLink("s"), graph)
    assert marks_sentence(nothing) == "The link marks nothing in this graph."


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_the_command_line_writes_the_marks_of_a_link(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / f"graph.{kind}", tmp_path / "out.json"
    stored = published()
    stored["qParams"] = {"pinnedIds": ["3_11_2"], "unknown": 7}
    external = read(stored)
    if kind == "json":
        file.write_bytes(json.dumps(stored).encode())
    else:
        graph_from_external(external).save(file)
    assert main(["export", str(file), str(out), "--marks", LINK]) == 0
    assert "The link has 1 pin, 2 supernodes and 1 label. 1 node" in capsys.readouterr().err
    written = json.loads(out.read_bytes())
    again = read(written)
    pins, groups = external_annotations(again)
    assert pins == (ERROR,)
    assert groups == (Supernode("size", (DOG, BARK)), Supernode("size (2)", (BIG,)))
    assert stored_labels(graph_from_external(again))[FeatureId(1, 9)] == "barks"
    if kind == "json":
        assert written["qParams"]["unknown"] == 7 and written["nodes"] == stored["nodes"]
        assert [name for name, *_ in written["qParams"]["supernodes"]] == ["size", "size (2)"]
    assert main(["export", str(file), str(out), "--marks", "https://example.org"]) == 2
    assert "is not a link to a graph" in capsys.readouterr().err
