"""Large uploads are read in a process of their own, which may die without harm."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest
from flavours import neuronpedia
from imports import changed, content, pt

from cache import upload
from cache.graph_files import read_import
from cache.upload import read_upload
from tracer.errors import Cancelled, ExternalGraphError


@pytest.fixture
def always_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "SMALL", 0)


def same(left: Any, right: Any) -> bool:
    return (left.key, left.title, left.annotations, left.original) == (
        right.key,
        right.title,
        right.annotations,
        right.original,
    ) and left.graph.to_bytes() == right.graph.to_bytes()


def test_a_file_read_apart_is_the_same_graph(always_apart: None) -> None:
    file = content(neuronpedia())
    assert same(read_upload(file, "x.json"), read_import(file, "x.json"))


def test_an_error_of_the_other_process_arrives_unchanged(always_apart: None) -> None:
    with pytest.raises(ExternalGraphError) as here:
        read_import(b'{"metadata": 1}', "x.json")
    with pytest.raises(ExternalGraphError) as there:
        read_upload(b'{"metadata": 1}', "x.json")
    assert str(there.value) == str(here.value)


def test_a_file_that_needs_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A legal 100 MB file took 2.5 GB of the server."""
    monkeypatch.setattr(upload, "_LEAST_MEMORY", 0)
    file = json.dumps({"metadata": {}, "nodes": [[]] * 3_000_000}).encode()
    tracemalloc.start()
    with pytest.raises(ExternalGraphError, match="more than 120 MB of memory"):
        read_upload(file, "x.json", memory=120 * 10**6)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * len(file)


def test_a_file_that_takes_too_long_is_refused(always_apart: None) -> None:
    with pytest.raises(ExternalGraphError, match="takes longer than 0 s"):
        read_upload(content(neuronpedia()), "x.json", seconds=0.0)


def test_reading_ends_when_nobody_wants_it(always_apart: None) -> None:
    def check() -> None:
        raise Cancelled("enough")

    begun = time.monotonic()
    with pytest.raises(Cancelled):
        read_upload(content(neuronpedia()), "x.json", check)
    assert time.monotonic() - begun < 1


def test_a_zip_counts_with_what_it_unpacks_to() -> None:
    file = pt()
    assert file.startswith(b"PK")
    assert upload._unpacked(file) >= len(file)
    assert upload._unpacked(b"PK\x03\x04 not a zip") == 14


@pytest.mark.parametrize(
    "file",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"metadata": ' + b"9" * 5000 + b"}",
        b"\xff\xfe" * 100,
        b"PK\x03\x04" + b"\0" * 100,
        b"",
    ],
)
def test_hostile_files_are_one_short_sentence(file: bytes) -> None:
    with pytest.raises(ExternalGraphError) as caught:
        read_upload(file, "x.json")
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_a_quoted_value_is_shortened() -> None:
    file = changed(lambda stored: stored["metadata"].update(slug=["x" * 100_000]))
    with pytest.raises(ExternalGraphError) as caught:
        read_upload(file, "x.json")
    assert len(str(caught.value)) < 400


def test_no_message_repeats_a_huge_word() -> None:
    """A word of 100,000 characters came back in full."""
    import tracer
    from tracer.errors import TracerError

    model, huge = tracer.load("atlas"), "x" * 100_000
    calls = (
        lambda: tracer.trace(model, huge),
        lambda: tracer.trace(model, "The opposite of hot is", targets=[huge]),
        lambda: tracer.load(huge),
        lambda: tracer.load("atlas", huge),
        lambda: tracer.load_graph(huge),
    )
    for call in calls:
        with pytest.raises(TracerError) as caught:
            call()
        assert len(str(caught.value)) < 600
