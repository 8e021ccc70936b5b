"""No code that a graph file names is ever run, however the file spells it."""

from __future__ import annotations

import copy
import io
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peer_graphs import (
    N_LAYERS,
    LogitTarget,
    UnifiedConfig,
    saved,
    stored,
    zipped,
)

from tracer.errors import ExternalGraphError
from tracer.interchange import circuit_tracer_pt, safe_unpickle
from tracer.interchange.circuit_tracer_pt import read_graph_pt

pytestmark = pytest.mark.usefixtures("peer_records")


class Runs:
    """An object that calls ``function`` with ``arguments`` when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def attacks(marker: Path) -> dict[str, bytes]:
    """Return files that create ``marker`` when they are unpickled plainly."""
    system = Runs(os.system, f"touch {marker}")
    evaluated = Runs(eval, f"open({str(marker)!r}, 'w').close()")
    touched = Runs(Path.touch, marker)
    by_name = f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode()
    renamed = zipped(saved(stored()), {"data.pkl": b"\x80\x02" + by_name})
    return {
        "system": saved(system),
        "system among the keys": saved(stored(scan=system)),
        "eval": saved(stored(input_string=evaluated)),
        "inside cfg": saved(stored(cfg=UnifiedConfig(N_LAYERS, tokenizer_name=evaluated))),
        "inside a target": saved(stored(logit_targets=[LogitTarget(system, 1)])),
        "a method of a path": saved(stored(scan=touched)),
        "protocol 4": saved(stored(scan=system), pickle_protocol=4),
        "not a zip": pickle.dumps(stored(scan=system), protocol=2),
        "not a zip, protocol 5": pickle.dumps(system, protocol=5),
        "torch's older form": saved(stored(scan=system), _use_new_zipfile_serialization=False),
        "instructions put in by hand": renamed,
        "an older instruction": zipped(
            saved(stored()),
            {"data.pkl": f"\x80\x02(S'touch {marker}'\niposix\nsystem\n.".encode("latin1")},
        ),
    }


def text(value: str) -> bytes:
    """Return an instruction of protocol 2 that pushes a string."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def handmade(marker: Path) -> dict[str, bytes]:
    """Return pickles that no pickler writes and that create ``marker`` when executed."""
    command, protocol = text(f"touch {marker}"), b"\x80\x02"
    module, function = text("posix"), text("system")
    harmless = text("collections") + text("OrderedDict")
    call = command + b"\x85R."
    system = b"cposix\nsystem\n"
    return {
        "builtins through getattr": protocol
        + b"c__builtin__\ngetattr\nc__builtin__\n__import__\n"
        + text("os")
        + b"\x85R"
        + text("system")
        + b"\x86R"
        + call,
        "an attribute of what is allowed": protocol
        + b"ctorch._utils\n_rebuild_tensor.__call__\n"
        + call,
        "a module inside one": protocol + b"ctorch\nserialization.os.system\n" + call,
        "a computed name": protocol + module + function + b"\x93" + call,
        "a computed name from the memo": protocol
        + module
        + b"q\x00"
        + function
        + b"q\x010"
        + b"0h\x00h\x01\x93"
        + call,
        "a computed name behind others": protocol + module + function + harmless + b"00\x93" + call,
        "a computed name below a mark": protocol
        + module
        + function
        + b"("
        + harmless
        + b"1\x93"
        + call,
        "a computed name in bytes": protocol + b"C\x05posixC\x06system\x93" + call,
        "obj": protocol + b"(" + system + command + b"o.",
        "newobj": protocol + b"csubprocess\nPopen\n" + command + b"\x85\x81.",
        "newobj with names": protocol + b"csubprocess\nPopen\n" + command + b"\x85}\x92.",
        "an extension": protocol + b"\x82\x01" + call,
        "a persistent id that is one": protocol
        + b"("
        + text("module")
        + system
        + text("0")
        + text("cpu")
        + b"K\x01tQ.",
        "a second pickle": protocol + b"}." + protocol + system + call,
        "a second protocol": protocol + b"\x80\x04" + system + call,
        "a frame": protocol + b"\x95\x08\0\0\0\0\0\0\0" + system + call,
    }


@pytest.mark.parametrize("spelling", attacks(Path("marker")))
def test_no_code_that_a_file_names_is_run(spelling: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    content = attacks(marker)[spelling]
    with pytest.raises(
        ExternalGraphError, match=r"names '[\w.]+', which a circuit-tracer graph .* nothing was run"
    ):
        read_graph_pt(content)
    assert not marker.exists()


@pytest.mark.parametrize("spelling", handmade(Path("marker")))
def test_no_code_that_a_handmade_pickle_names_is_run(spelling: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    content = zipped(saved(stored()), {"data.pkl": handmade(marker)[spelling]})
    with pytest.raises(
        ExternalGraphError,
        match=r"names '[\w.? ]+', which a circuit-tracer graph .* nothing was run",
    ):
        read_graph_pt(content)
    assert not marker.exists()


@pytest.mark.parametrize(
    "instructions",
    [
        b"\x80\x02Pposix.system\n.",
        b"\x80\x02" + text("storage") + b"Q.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor\n}" + text("__code__") + b"K\x01sb.",
    ],
    ids=["a persistent id as text", "a persistent id of nothing", "built upon a function"],
)
def test_unknown_pickle_instructions_are_not_executed(instructions: bytes) -> None:
    with pytest.raises(
        ExternalGraphError, match=r"has pickle instructions that .* were not executed"
    ):
        read_graph_pt(zipped(saved(stored()), {"data.pkl": instructions}))


def with_more(content: bytes, name: str, more: bytes = b"x") -> bytes:
    buffer = io.BytesIO(content)
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(name, more)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("archive/data.pkl", "2 files named data.pkl"),
        ("other/data.pkl", "2 files named data.pkl"),
        ("../../marker", "contains '../../marker'"),
        ("/tmp/marker", "contains '/tmp/marker'"),
        ("archive/data/../../../marker", "contains 'archive/data/../../../marker'"),
        ("archive/constants.pkl", "contains 'archive/constants.pkl'"),
        ("archive/code/__torch__.py", "contains 'archive/code/__torch__.py'"),
    ],
)
def test_a_zip_with_other_files_than_a_graph_has_is_refused(name: str, message: str) -> None:
    with pytest.raises(ExternalGraphError, match=re.escape(message)):
        read_graph_pt(with_more(saved(stored()), name))


def test_a_zip_whose_files_overlap_is_not_unpacked() -> None:
    buffer = io.BytesIO(saved(stored(note="x" * 10_000)))
    with zipfile.ZipFile(buffer, "a") as archive:
        entry = archive.getinfo("archive/data.pkl")
        for number in range(100, 120):
            again = copy.copy(entry)
            again.filename = f"archive/data/{number}"
            archive.filelist.append(again)
        archive.writestr("archive/data/99", b"")  # the directory is written again
    with pytest.raises(ExternalGraphError, match="unpacks to more bytes than it has"):
        read_graph_pt(buffer.getvalue())


def test_a_zip_that_two_readers_understand_differently_is_refused() -> None:
    """Some readers count offsets from the start of the file, others from its end."""
    plainly = zipped(saved(stored()), {})
    other = zipped(plainly, {"data.pkl": pickle.dumps({"other": 1}, protocol=2)})

    def parts(content: bytes) -> tuple[bytes, bytearray, bytearray]:
        size, start = struct.unpack("<II", content[-10:-2])
        return content[:start], bytearray(content[start : start + size]), bytearray(content[-22:])

    (files, directory, end), (more, hidden, _) = parts(plainly), parts(other)
    assert len(directory) == len(hidden)
    at = 0
    while at < len(directory):
        (place,) = struct.unpack_from("<I", directory, at + 42)
        struct.pack_into("<I", directory, at + 42, place + len(more) - len(hidden))
        at += 46 + sum(struct.unpack_from("<HHH", directory, at + 28))
    struct.pack_into("<I", end, 16, len(more) + len(files))
    content = more + files + hidden + directory + end
    assert torch.load(io.BytesIO(content), weights_only=True) == {"other": 1}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert b"input_string" in archive.read("archive/data.pkl")
    with pytest.raises(ExternalGraphError, match="two directories"):
        read_graph_pt(content)


def exponential() -> list[Any]:
    """Return forty lists, each with the one before it twice: 2⁴⁰ numbers when expanded."""
    nested: list[Any] = [1]
    for _ in range(40):
        nested = [nested, nested]
    return nested


@pytest.mark.parametrize(
    "changes",
    [
        {"scan": exponential()},
        {"input_string": exponential()},
        {"vocab_size": exponential()},
        {"cfg": {"n_layers": exponential()}},
        {"input_tokens": exponential()},
        {"logit_targets": [LogitTarget(exponential(), 11)]},  # type: ignore[arg-type]
        {"logit_targets": exponential()},
        {"active_features": exponential()},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_small_file_that_expands_without_limit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ExternalGraphError, match=r"is a list|has a list in it|expected a number"):
        read_graph_pt(saved(stored(**changes)))


def test_a_list_of_too_many_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_tracer_pt, "_MOST_NUMBERS", 14)
    with pytest.raises(ExternalGraphError, match="active_features of the graph has 15 numbers"):
        read_graph_pt(saved(stored()))


def test_the_attacks_work_when_a_file_is_unpickled_plainly(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.load(io.BytesIO(attacks(marker)["system"]), weights_only=False)
    assert marker.exists()
    marker.unlink()
    pickle.loads(attacks(marker)["not a zip, protocol 5"])
    assert marker.exists()


def test_the_error_repeats_the_name() -> None:
    for spelling, named in (
        ("system", "posix.system"),
        ("eval", "builtins.eval"),
        ("inside cfg", "builtins.eval"),
        ("protocol 4", "posix.system"),
        ("not a zip, protocol 5", "posix.system"),
        ("an older instruction", "posix.system"),
    ):
        with pytest.raises(ExternalGraphError, match=f"names '{named}', which"):
            read_graph_pt(attacks(Path("marker"))[spelling])


def test_torch_refuses_the_attacks_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(safe_unpickle, "_check_names", lambda *_: None)
    marker = tmp_path / "marker"
    for content in attacks(marker).values():
        with pytest.raises(ExternalGraphError):
            read_graph_pt(content)
    assert not marker.exists()


def test_the_stand_ins_are_removed_after_reading() -> None:
    before = set(torch.serialization.get_safe_globals())  # a set: torch's list has any order
    read_graph_pt(saved(stored()))
    assert set(torch.serialization.get_safe_globals()) == before
