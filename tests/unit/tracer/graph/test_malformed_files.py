"""Whatever is in a graph file, reading it gives a valid graph or one sentence about what is wrong.

A file whose header was ``null`` once stopped the app, because the store opens every file it finds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_graphs import (
    CONTENT,
    GRAPH,
    Arrays,
    file_of,
    header_size,
    parts,
    raw_file,
)

import tracer
from tracer.__main__ import main
from tracer.errors import GraphFileError

N_FEATURES, N_NODES, N_EDGES = GRAPH.index.n_features, GRAPH.n_nodes, GRAPH.n_edges


def problem(path: Path, content: bytes) -> str:
    """Return the part of the error's sentence that says what is wrong."""
    path.write_bytes(content)
    with pytest.raises(GraphFileError) as raised:
        tracer.load_graph(path)
    sentence = re.fullmatch(
        re.escape(str(path)) + r" is not a valid graph file \((.*)\): trace or import the graph "
        "again",
        str(raised.value),
    )
    assert sentence is not None, raised.value
    return sentence[1]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", "its header is not JSON: EOF while parsing a value at line 1 column 0"),
        ("null", "its header is None, expected an object"),
        ("[1]", "its header is [1], expected an object"),
        ("{", "its header is not JSON: EOF while parsing an object at line 1 column 1"),
        ("{}", "its header has no 'format_version'"),
        ('{"format_version": 3}', "it has format version 3, this library reads versions 1 and 2"),
        ('{"format_version": 2}', "its header has no 'prompt'"),
        ('{"format_version": "1"}', "its header's format_version is '1', expected a valid integer"),
        ('{"format_version": 1}', "its header has no 'prompt'"),
        ("[" * 100_000, "its header is not JSON: recursion limit exceeded"),
        ("9" * 5000, "its header is not JSON: number out of range"),
    ],
)
def test_a_header_that_is_not_one_is_named(tmp_path: Path, header: str, expected: str) -> None:
    _, arrays = parts()
    assert problem(tmp_path / "graph", file_of(header, arrays)).startswith(expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"prompt": None}, "its header's prompt is None, expected a valid string"),
        ({"prompt": "\ud800"}, "its header is not JSON: .*"),
        ({"tokens": "abcd"}, "its header's tokens is 'abcd', expected a valid array"),
        ({"tokens": [1] * 4}, "its header's tokens.0 is 1, expected a valid string"),
        ({"tokens": []}, r"its header's tokens is \[\], expected Tuple .* at least 1 item.*"),
        ({"tokens": ["a"] * 3}, "it has 4 token ids for 3 tokens"),
        ({"token_ids": [1, 2, 3]}, "it has 3 token ids for 4 tokens"),
        ({"token_ids": [1, 2, 3, 0.5]}, "its header's token_ids.3 is 0.5, expected a valid int.*"),
        (
            {"token_ids": [1, 2, 3, True]},
            "its header's token_ids.3 is True, expected a valid int.*",
        ),
        (
            {"token_ids": [1, 2, 3, 2**63]},
            "its header's token_ids.3 is 9223.*, expected less than.*",
        ),
        ({"n_layers": -1}, "its header's n_layers is -1, expected greater than or equal to 0"),
        ({"n_layers": "3"}, "its header's n_layers is '3', expected a valid integer"),
        ({"n_layers": 10**9}, "its header's n_layers is 1000000000, expected less than or .* 4096"),
        ({"n_layers": 2}, "features names feature [0-9]+ of layer 2 at .*, expected 2 layers .*"),
        ({"n_layers": 4}, rf"indptr has shape \({N_NODES + 1},\), expected \({N_NODES + 5},\)"),
        ({"targets": []}, r"its header's targets is \[\], expected Tuple .* at least 1 item.*"),
        ({"targets": [3]}, "its header's targets.0 is 3, expected an object"),
        ({"targets": [{"label": "a"}]}, "its header has no 'targets.0.token_ids'"),
        ({"next_tokens": [["a", 1, 0.5]]}, "its header has no 'next_tokens.0.3'"),
        ({"next_tokens": [["a", 1, float("nan"), 0.0]]}, "its header's next_tokens.0.2 is nan, .*"),
        ({"n_active_features": 1}, f"it has {N_FEATURES} features, but n_active_features is 1"),
        ({"dropped_weight": 1.5}, "its header's dropped_weight is 1.5, expected less than or .* 1"),
        ({"rounding_error": float("nan")}, "its header's rounding_error is nan, expected .*"),
        ({"provenance": {"labels": ["a"]}}, r"its header's provenance.labels is \['a'\], exp.*"),
        ({"provenance": {"labels": {"L0/7": 3}}}, "its header's provenance.labels.L0/7 is 3, e.*"),
        ({"provenance": {"labels": {"x": "a"}}}, "its header's provenance.labels.x.* is 'x', .*"),
        ({"provenance": {"source_urls": 3}}, "its header's provenance.source_urls is 3, expec.*"),
        ({"provenance": [1]}, r"its header's provenance is \[1\], expected an object"),
    ],
)
def test_a_wrong_value_in_the_header_is_repeated(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    header, arrays = parts()
    sentence = problem(tmp_path / "graph", file_of(header | change, arrays))
    assert re.fullmatch(expected, sentence), sentence


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"label": 3}, "label is 3, expected a valid string"),
        (
            {"token_ids": [1, 2, 3]},
            r"token_ids is \[1, 2, 3\], expected Tuple .* at most 2 items.*",
        ),
        ({"probability": float("nan")}, "probability is nan, expected .*"),
        ({"probability": float("inf")}, "probability is inf, expected a finite number"),
        ({"probability": -0.1}, "probability is -0.1, expected greater than or equal to 0"),
        ({"probability": "0.5"}, "probability is '0.5', expected a valid number"),
        ({"feature": ["error", 0, 1, 2]}, "feature.0 is 'error', expected 'feature'"),
        ({"feature": ["feature", 0, 1, -2]}, "feature.3 is -2, expected greater than or .* 0"),
        ({"feature": 3}, "feature is 3, expected a valid array"),
    ],
)
def test_a_wrong_value_in_a_target_is_repeated(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    header, arrays = parts()
    header["targets"][1] |= change
    sentence = problem(tmp_path / "graph", file_of(header, arrays))
    assert re.fullmatch(rf"its header's targets\.1\.{expected}", sentence), sentence


def test_a_target_feature_outside_the_graph_is_named(tmp_path: Path) -> None:
    header, arrays = parts()
    header["targets"][0]["feature"] = ["feature", 3, 1, 7]
    assert problem(tmp_path / "graph", file_of(header, arrays)) == (
        "the targets names feature 7 of layer 3 at position 1, expected 3 layers and 4 positions, "
        "counted from 0"
    )


def changed(name: str, place: Any, value: Any) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name][place] = value

    return change


def replaced(
    name: str, make: Callable[[np.ndarray], np.ndarray | None]
) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        array = make(arrays.pop(name))
        if array is not None:
            arrays[name] = array

    return change


FIRST_LOGIT = GRAPH.index.logit_rows.start
START = int(GRAPH.indptr[FIRST_LOGIT])
FILLED = int(np.flatnonzero(np.diff(GRAPH.indptr))[0])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (replaced("sources", lambda a: None), "it has no array 'sources'"),
        (
            replaced("weights", lambda a: a.astype(np.float16)),
            "weights has dtype F16, expected F32 or F64",
        ),
        (
            replaced("sources", lambda a: a.astype(np.float32)),
            "sources has dtype F32, expected I32 or I64",
        ),
        (
            replaced("indptr", lambda a: a.astype(np.uint64)),
            "indptr has dtype U64, expected I32 or I64",
        ),
        (
            replaced("features", lambda a: a[:, :2]),
            f"features has shape ({N_FEATURES}, 2), expected (n_features, 3)",
        ),
        (
            replaced("features", lambda a: a.ravel()),
            f"features has shape ({N_FEATURES * 3},), expected (n_features, 3)",
        ),
        (
            replaced("activations", lambda a: a[:-1]),
            f"activations has shape ({N_FEATURES - 1},), expected ({N_FEATURES},)",
        ),
        (
            replaced("weights", lambda a: a[:-1]),
            f"weights has shape ({N_EDGES - 1},), expected ({N_EDGES},)",
        ),
        (
            replaced("sources", lambda a: np.zeros((), np.int32)),
            "sources has shape (), expected (n_edges,)",
        ),
        (
            replaced("indptr", lambda a: a[:-1]),
            f"indptr has shape ({N_NODES},), expected ({N_NODES + 1},)",
        ),
        (
            changed("indptr", 0, 1),
            f"indptr runs from 1 to {N_EDGES}, expected 0 to {N_EDGES}, the number of edges",
        ),
        (
            changed("indptr", -1, N_EDGES + 1),
            f"indptr runs from 0 to {N_EDGES + 1}, expected 0 to {N_EDGES}, the number of edges",
        ),
        (
            changed("indptr", FILLED + 1, -5),
            f"indptr falls from 0 to -5 at row {FILLED}",
        ),
        (
            changed("indptr", N_FEATURES + 1, START + 1),
            f"indptr falls from {START + 1} to {START} at row {N_FEATURES + 1}",
        ),
        (
            changed("indptr", slice(N_FEATURES + 1, FIRST_LOGIT + 1), START + 1),
            "its errors or tokens have inputs, expected none",
        ),
        (
            changed("features", (0, 0), -1),
            f"features names feature {GRAPH.features[0, 2]} of layer -1 at position "
            f"{GRAPH.features[0, 1]}, expected 3 layers and 4 positions, counted from 0",
        ),
        (
            changed("features", (0, 1), 4),
            f"features names feature {GRAPH.features[0, 2]} of layer 0 at position 4, expected "
            "3 layers and 4 positions, counted from 0",
        ),
        (
            changed("features", 1, GRAPH.features[0]),
            f"features has {GRAPH.features[0].tolist()} after {GRAPH.features[0].tolist()}, "
            "expected ascending rows without repeats",
        ),
        (
            changed("features", slice(0, 2), GRAPH.features[1::-1]),
            f"features has {GRAPH.features[0].tolist()} after {GRAPH.features[1].tolist()}, "
            "expected ascending rows without repeats",
        ),
        (changed("activations", 2, np.inf), "activations has an infinite value"),
        (
            changed("sources", START, -1),
            f"row {FIRST_LOGIT} has the source -1, expected 0 to {N_NODES - 1}",
        ),
        (
            changed("sources", -1, N_NODES),
            f"row {N_NODES - 1} has the source {N_NODES}, expected 0 to {N_NODES - 1}",
        ),
        (
            changed("sources", START + 1, GRAPH.sources[START]),
            f"the sources of row {FIRST_LOGIT} are not ascending without repeats",
        ),
        (
            changed("sources", -1, N_NODES - 1),
            f"it has an effect of {GRAPH.index.node(N_NODES - 1)} on "
            f"{GRAPH.index.node(N_NODES - 1)}, expected sources in lower layers",
        ),
        (changed("weights", 5, np.nan), "weights is nan at edge 5, expected finite numbers"),
        (changed("weights", 6, -np.inf), "weights is -inf at edge 6, expected finite numbers"),
    ],
)
def test_arrays_that_do_not_fit_together_are_named(
    tmp_path: Path, change: Callable[[Arrays], None], expected: str
) -> None:
    header, arrays = parts()
    change(arrays)
    assert problem(tmp_path / "graph", file_of(header, arrays)) == expected


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("kind", ["feature", "error"])
def test_an_effect_within_a_layer_is_found_in_every_layer(
    tmp_path: Path, dtype: type, kind: str
) -> None:
    """A source moves up, one row at a time, until it is in its target's own layer."""
    index = GRAPH.index
    tried = set()
    for row in range(index.n_features):
        start, stop = GRAPH.indptr[row], GRAPH.indptr[row + 1]
        layer = index.node(row).layer
        sources = [r for r in range(len(index)) if index.node(r).kind == kind]
        source = next(r for r in sources if index.node(r).layer == layer)
        if start == stop or source <= GRAPH.sources[start]:
            continue
        header, arrays = parts()
        entries = [s for s in GRAPH.sources[start:stop].tolist() if s < source]
        arrays["sources"] = np.r_[
            GRAPH.sources[:start], entries, [source], GRAPH.sources[stop:]
        ].astype(dtype)
        arrays["weights"] = np.ones(len(arrays["sources"]), np.float32)
        shift = len(entries) + 1 - (stop - start)
        arrays["indptr"] = np.r_[GRAPH.indptr[: row + 1], GRAPH.indptr[row + 1 :] + shift]
        assert problem(tmp_path / "graph", file_of(header, arrays)) == (
            f"it has an effect of {index.node(source)} on {index.node(row)}, expected sources in "
            "lower layers"
        )
        tried.add(layer)
    assert len(tried) >= 2


def test_other_widths_of_numbers_are_read(tmp_path: Path) -> None:
    header, arrays = parts()
    arrays |= {name: arrays[name].astype(np.int64) for name in ("features", "sources", "indptr")}
    arrays |= {name: arrays[name].astype(np.float64) for name in ("weights", "activations")}
    (tmp_path / "graph").write_bytes(file_of(header, arrays))
    assert (tracer.load_graph(tmp_path / "graph").to_dense() == GRAPH.to_dense()).all()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "header too small"),
        (b"The capital of the state containing Dallas is", "header too large"),
        (CONTENT[: header_size() // 2], "invalid header length"),
        (CONTENT[:-9], "incomplete metadata, file not fully covered"),
        (CONTENT + b"more", "incomplete metadata, file not fully covered"),
        (raw_file(b"null"), "invalid JSON in header: invalid type: null, expected .*"),
        (raw_file({"__metadata__": None}), "its header is not JSON: EOF .*"),
        (raw_file({"__metadata__": {"graph": 3}}), "invalid JSON in header: .*"),
        (
            raw_file(
                {"a": {"dtype": "F32", "shape": [2**40] * 2, "data_offsets": [0, 4]}}, b"abcd"
            ),
            "overflow computing buffer size .*",
        ),
        (
            raw_file(
                {
                    "__metadata__": {"graph": json.dumps(parts()[0])},
                    "features": {"dtype": "I32", "shape": [0, 2**62], "data_offsets": [0, 0]},
                    **{
                        name: {"dtype": dtype, "shape": [0], "data_offsets": [0, 0]}
                        for name, dtype in (
                            *(("activations", "F32"), ("weights", "F32")),
                            *(("indptr", "I64"), ("sources", "I32")),
                        )
                    },
                }
            ),
            "array is too big; .*",
        ),
        (
            raw_file(
                {
                    "__metadata__": {"graph": json.dumps(parts()[0])},
                    "features": {"dtype": "F8_E4M3", "shape": [0], "data_offsets": [0, 0]},
                }
            ),
            "features has dtype F8_E4M3, expected I32 or I64",
        ),
    ],
)
def test_a_file_that_is_not_safetensors_is_one_sentence(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    sentence = problem(tmp_path / "graph", content)
    assert re.fullmatch(expected, sentence), sentence


@pytest.mark.parametrize(
    ("name", "reason"), [("missing", "it does not exist"), ("", "it is a directory")]
)
def test_what_cannot_be_opened_is_one_sentence(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / name
    with pytest.raises(GraphFileError) as raised:
        tracer.load_graph(path)
    assert str(raised.value) == f"{path} cannot be read ({reason}): check the path"


def test_the_command_line_says_one_line_about_a_malformed_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.safetensors"
    _, arrays = parts()
    for header in ("null", "{}", '{"format_version": 1}'):
        path.write_bytes(file_of(header, arrays))
        assert main(["prune", str(path)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith(f"error: {path} is not a valid graph file (its header ")
        assert printed.err.count("\n") == 1
