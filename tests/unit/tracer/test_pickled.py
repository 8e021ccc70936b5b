"""Graphs that circuit-tracer saved are read number for number; nothing in a file is ever run."""

from __future__ import annotations

import copy
import io
import math
import os
import pickle
import re
import struct
import sys
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import tracer
from tracer import pickled, unpickling
from tracer.errors import SharedGraphError
from tracer.pickled import read_graph_pt
from tracer.types import NodeId

N_LAYERS, N_POSITIONS, N_LOGITS = 2, 3, 2
ACTIVE = [(0, 1, 7), (0, 2, 3), (1, 1, 0), (1, 2, 9), (1, 2, 5)]
SELECTED = [3, 0, 2]  # in no order, and not all of them
N = len(SELECTED) + N_LAYERS * N_POSITIONS + N_POSITIONS + N_LOGITS


class LogitTarget(NamedTuple):
    token_str: str
    vocab_idx: int


@dataclass
class UnifiedConfig:
    n_layers: Any
    d_vocab: int = 50
    dtype: Any = torch.float32
    tokenizer_name: Any = None


@dataclass
class HookedTransformerConfig(UnifiedConfig):
    initializer_range: Any = None


PLACES = {
    LogitTarget: "circuit_tracer.attribution.targets",
    UnifiedConfig: "circuit_tracer.utils.tl_nnsight_mapping",
    HookedTransformerConfig: "transformer_lens.config.HookedTransformerConfig",
}


@pytest.fixture(autouse=True)
def theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The records under the names by which circuit-tracer's files ask for them."""
    for record, module in PLACES.items():
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name not in sys.modules:
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setattr(sys.modules[module], record.__name__, record, raising=False)
        monkeypatch.setattr(record, "__module__", module)
    return


def matrix() -> torch.Tensor:
    """Random effects on features and targets from lower layers, in the order of the file."""
    generator = torch.Generator().manual_seed(3)
    dense = torch.zeros(N, N)
    features = [ACTIVE[i] for i in SELECTED]
    layers = [f[0] for f in features]
    layers += [layer for layer in range(N_LAYERS) for _ in range(N_POSITIONS)]
    layers += [-1] * N_POSITIONS + [N_LAYERS] * N_LOGITS
    for row in [*range(len(features)), *range(N - N_LOGITS, N)]:
        for source in range(N):
            if layers[source] < layers[row]:
                dense[row, source] = torch.randn((), generator=generator)
    return dense


def stored(**changes: Any) -> dict[str, Any]:
    """What circuit-tracer 0.5.0 puts into a file; None takes a key out."""
    whole = {
        "input_string": "<bos>big dog",
        "adjacency_matrix": matrix(),
        "cfg": UnifiedConfig(N_LAYERS),
        "active_features": torch.tensor(ACTIVE),
        "logit_targets": [LogitTarget(" bark", 11), LogitTarget(" run", 12)],
        "logit_probabilities": torch.tensor([0.7, 0.2]),
        "vocab_size": 50,
        "input_tokens": torch.tensor([2, 5, 6]),
        "selected_features": torch.tensor(SELECTED),
        "activation_values": torch.arange(1.0, 6.0),
        "scan": "gemma",
    } | changes
    return {key: value for key, value in whole.items() if value is not None}


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


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
    theirs = [SELECTED.index(i) for i in (0, 2, 3)] + list(range(len(SELECTED), N))
    assert torch.equal(graph.to_dense(), matrix()[theirs][:, theirs])
    assert graph.n_edges == int((matrix() != 0).sum()) > 20


def test_the_graph_can_be_pruned_and_saved(tmp_path: Path) -> None:
    graph = read_graph_pt(saved(stored()))
    pruned = tracer.prune(graph, 0.5, 0.8)
    assert 0 < len(pruned.nodes) < graph.n_nodes and 0 < pruned.replacement_score < 1
    graph.save(tmp_path / "graph")
    assert torch.equal(tracer.load_graph(tmp_path / "graph").to_dense(), graph.to_dense())


def test_a_file_is_read_like_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "dog.pt"
    path.write_bytes(saved(stored()))
    assert tracer.read_graph_pt(path).prompt == "<bos>big dog"
    with pytest.raises(SharedGraphError, match=r"absent\.pt cannot be read: No such file"):
        read_graph_pt(tmp_path / "absent.pt")


def test_forms_of_other_versions_are_read() -> None:
    whole = read_graph_pt(saved(stored()))
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
    assert torch.equal(graph.to_dense(), whole.to_dense().bfloat16().float())
    ids = read_graph_pt(saved(stored(logit_targets=torch.tensor([11, 12]))))
    assert [target.token_ids for target in ids.targets] == [(11,), (12,)]


def test_an_id_beyond_the_vocabulary_is_a_direction() -> None:
    targets = [LogitTarget(" bark", 11), LogitTarget("loudness", 51)]
    graph = read_graph_pt(saved(stored(logit_targets=targets)))
    assert graph.targets[1].label == "loudness" and graph.targets[1].token_ids == ()
    assert graph.index.node(graph.n_nodes - 1) == NodeId("logit", N_LAYERS, 2, -2)


def test_tokens_have_the_texts_that_are_given_or_follow_from_the_prompt() -> None:
    def texts(**options: Any) -> tuple[str, ...]:
        prompt = options.pop("prompt", "big dogs ran far")
        return read_graph_pt(saved(stored(input_string=prompt)), **options).tokens

    assert texts() == ("token 2", "token 5", "token 6")  # four words, three tokens
    assert texts(prompt="big dog!") == ("big", " dog", "!")
    assert texts(decode=lambda token: f"<{token}>") == ("<2>", "<5>", "<6>")
    assert texts(tokens=["a", "b", "c"]) == ("a", "b", "c")
    with pytest.raises(SharedGraphError, match="has 3 tokens, 1 texts were given"):
        texts(tokens=["a"])


class Runs:
    """Whoever unpickles this calls ``function`` with ``arguments``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def attacks(marker: Path) -> dict[str, bytes]:
    """Files that would make ``marker`` if they were unpickled plainly."""
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
    """An instruction of protocol 2 that pushes a text."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def handmade(marker: Path) -> dict[str, bytes]:
    """Pickles that no pickler writes; followed plainly, they would make ``marker``."""
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


def zipped(content: bytes, changed: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w", method) as new,
    ):
        for name in old.namelist():
            new.writestr(name, changed.get(name.rpartition("/")[2], old.read(name)))
    return buffer.getvalue()


@pytest.mark.parametrize("spelling", attacks(Path("marker")))
def test_nothing_that_a_file_asks_for_is_run(spelling: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    content = attacks(marker)[spelling]
    with pytest.raises(SharedGraphError, match=r"asks for [\w.]+: a graph of .* nothing was run"):
        read_graph_pt(content)
    assert not marker.exists()


@pytest.mark.parametrize("spelling", handmade(Path("marker")))
def test_nothing_that_is_put_together_by_hand_is_run(spelling: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    content = zipped(saved(stored()), {"data.pkl": handmade(marker)[spelling]})
    with pytest.raises(SharedGraphError, match=r"asks for [\w.? ]+: a graph of .* nothing was run"):
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
def test_instructions_that_no_graph_has_are_said_in_a_sentence(instructions: bytes) -> None:
    with pytest.raises(SharedGraphError, match=r"has instructions that .* were not followed"):
        read_graph_pt(zipped(saved(stored()), {"data.pkl": instructions}))


def with_more(content: bytes, name: str, more: bytes = b"x") -> bytes:
    buffer = io.BytesIO(content)
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(name, more)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("archive/data.pkl", "2 files data.pkl"),
        ("other/data.pkl", "2 files data.pkl"),
        ("../../marker", "holds '../../marker'"),
        ("/tmp/marker", "holds '/tmp/marker'"),
        ("archive/data/../../../marker", "holds 'archive/data/../../../marker'"),
        ("archive/constants.pkl", "holds 'archive/constants.pkl'"),
        ("archive/code/__torch__.py", "holds 'archive/code/__torch__.py'"),
    ],
)
def test_a_zip_holds_what_a_graph_has_and_nothing_else(name: str, said: str) -> None:
    with pytest.raises(SharedGraphError, match=re.escape(said)):
        read_graph_pt(with_more(saved(stored()), name))


def test_a_zip_whose_files_lie_over_each_other_is_not_unfolded() -> None:
    buffer = io.BytesIO(saved(stored(note="x" * 10_000)))
    with zipfile.ZipFile(buffer, "a") as archive:
        whole = archive.getinfo("archive/data.pkl")
        for number in range(100, 120):
            again = copy.copy(whole)
            again.filename = f"archive/data/{number}"
            archive.filelist.append(again)
        archive.writestr("archive/data/99", b"")  # the directory is written again
    with pytest.raises(SharedGraphError, match="unfolds to more than it has"):
        read_graph_pt(buffer.getvalue())


def test_a_zip_that_two_readers_read_apart_is_refused() -> None:
    """Offsets count from the file's start, or back from its end: here that makes a difference."""
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
    with pytest.raises(SharedGraphError, match="two directories"):
        read_graph_pt(content)


def laughing() -> list[Any]:
    """Forty lists, each with the one before it twice: as a text, or as numbers, 2⁴⁰ of them."""
    found: list[Any] = [1]
    for _ in range(40):
        found = [found, found]
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"scan": laughing()},
        {"input_string": laughing()},
        {"vocab_size": laughing()},
        {"cfg": {"n_layers": laughing()}},
        {"input_tokens": laughing()},
        {"logit_targets": [LogitTarget(laughing(), 11)]},  # type: ignore[arg-type]
        {"logit_targets": laughing()},
        {"active_features": laughing()},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_small_file_that_unfolds_without_end_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SharedGraphError, match=r"is a list|holds no numbers|expected a number"):
        read_graph_pt(saved(stored(**changes)))


def test_more_numbers_than_can_be_widened_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "_MOST_NUMBERS", 14)
    with pytest.raises(SharedGraphError, match="active_features of the graph has 15 numbers"):
        read_graph_pt(saved(stored()))


def test_the_attacks_work_where_a_file_is_unpickled_plainly(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.load(io.BytesIO(attacks(marker)["system"]), weights_only=False)
    assert marker.exists()
    marker.unlink()
    pickle.loads(attacks(marker)["not a zip, protocol 5"])
    assert marker.exists()


def test_what_is_asked_for_is_named() -> None:
    for spelling, asked in (
        ("system", "posix.system"),
        ("eval", "builtins.eval"),
        ("inside cfg", "builtins.eval"),
        ("protocol 4", "posix.system"),
        ("not a zip, protocol 5", "posix.system"),
        ("an older instruction", "posix.system"),
    ):
        with pytest.raises(SharedGraphError, match=f"asks for {asked}:"):
            read_graph_pt(attacks(Path("marker"))[spelling])


def test_torch_would_refuse_it_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(unpickling, "_check_names", lambda *_: None)
    marker = tmp_path / "marker"
    for content in attacks(marker).values():
        with pytest.raises(SharedGraphError):
            read_graph_pt(content)
    assert not marker.exists()


def test_the_stand_ins_are_gone_after_reading() -> None:
    before = torch.serialization.get_safe_globals()
    read_graph_pt(saved(stored()))
    assert torch.serialization.get_safe_globals() == before


def repeated() -> torch.Tensor:
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
    ("changes", "said"),
    [
        ({"adjacency_matrix": None}, "has no 'adjacency_matrix'"),
        ({"active_features": None}, "has no 'active_features'"),
        ({"cfg": None}, "has no 'cfg'"),
        ({"cfg": 3}, "cfg of the graph is a int"),
        ({"cfg": UnifiedConfig("two")}, "n_layers of the graph is 'two'"),
        ({"cfg": UnifiedConfig(10**9)}, "n_layers of the graph is 1000000000"),
        ({"cfg": UnifiedConfig(20_000)}, "has 60,008 nodes, at most 32,768"),
        ({"cfg": UnifiedConfig(3)}, r"has the shape \(14, 14\), expected \(17, 17\)"),
        ({"cfg": UnifiedConfig(1)}, "name layer 1 and position 2; the model has 1 layers"),
        ({"input_tokens": torch.tensor([2, 5])}, "the prompt 2 tokens"),
        ({"input_tokens": torch.zeros(0)}, "empty prompt"),
        (
            {"input_tokens": torch.tensor([2, 5, -6])},
            "input_tokens of the graph has numbers from -6",
        ),
        ({"input_tokens": torch.tensor([0.5, 1, 2])}, "expected whole numbers"),
        ({"adjacency_matrix": matrix()[:-1]}, r"has the shape \(13, 14\)"),
        ({"adjacency_matrix": "big"}, "adjacency_matrix of the graph is no tensor"),
        ({"adjacency_matrix": repeated()}, "larger than what is stored"),
        ({"adjacency_matrix": nan_at(0, 1)}, "adjacency_matrix of the graph has a number that is"),
        ({"adjacency_matrix": effect(1, 0)}, "effect that runs downward, or on an error"),
        ({"adjacency_matrix": effect(4, 10)}, "effect that runs downward, or on an error"),
        ({"adjacency_matrix": effect(10, 10)}, "effect that runs downward, or on an error"),
        ({"active_features": torch.zeros(5, 2, dtype=torch.long)}, r"shape \(5, 2\)"),
        ({"active_features": torch.tensor([[0, 1, -1]] * 5)}, "numbers from -1"),
        ({"active_features": torch.tensor([[0, 1, 2**40]] * 5)}, "to 1099511627776"),
        ({"active_features": torch.tensor([[0, 1, 1]] * 5)}, "same feature or target twice"),
        ({"selected_features": torch.tensor([5, 0, 2])}, "names feature 5 of 5 active"),
        ({"selected_features": torch.tensor([0, 0, 2])}, "same feature or target twice"),
        ({"activation_values": torch.zeros(4)}, "4 activations for 3 selected"),
        ({"activation_values": torch.full((5,), math.inf)}, "number that is not finite"),
        ({"logit_targets": None}, "explains nothing"),
        ({"logit_targets": []}, "explains nothing"),
        ({"logit_targets": [LogitTarget("a", "b")]}, "holds no numbers"),
        ({"logit_targets": [LogitTarget("a", 1), LogitTarget("b", 1)]}, "target twice"),
        ({"logit_probabilities": torch.tensor([0.7])}, "1 logit_probabilities for 2 targets"),
        ({"logit_probabilities": torch.tensor([0.7, -0.2])}, "none negative"),
        ({"vocab_size": "many"}, "vocab_size of the graph is 'many'"),
    ],
)
def test_what_does_not_fit_together_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SharedGraphError, match=said):
        read_graph_pt(saved(stored(**changes)))


def test_damage_is_one_sentence_wherever_the_file_is_cut() -> None:
    content = saved(stored())
    for size in (0, 1, 3, 10, 200, 1000, len(content) // 2, len(content) - 1):
        with pytest.raises(SharedGraphError):
            read_graph_pt(content[:size])
    for instructions in (b"\x80\x02", b"\x80\x02}", b"\x80\x02K\x01.", b"\x80\x02h\x07.", b"]."):
        with pytest.raises(SharedGraphError):
            read_graph_pt(zipped(content, {"data.pkl": instructions}))
    with pytest.raises(SharedGraphError, match="holds a list, expected the mapping"):
        read_graph_pt(saved([1]))
    with pytest.raises(SharedGraphError, match=r"is no \.pt file"):
        read_graph_pt(b'{"metadata": {}}')
    with pytest.raises(SharedGraphError, match="is a bare pickle"):
        read_graph_pt(pickle.dumps({"scan": "gemma"}, protocol=2))


def test_too_much_and_what_unfolds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(stored())
    with pytest.raises(SharedGraphError, match="is compressed"):
        read_graph_pt(zipped(content, {}, zipfile.ZIP_DEFLATED))
    monkeypatch.setattr(pickled, "MAX_NODES", N - 1)
    with pytest.raises(SharedGraphError, match=f"has {N} nodes, at most {N - 1}"):
        read_graph_pt(content)
    monkeypatch.setattr(unpickling, "MAX_BYTES", len(content) - 1)
    with pytest.raises(SharedGraphError, match="at most 0 can be read"):
        read_graph_pt(content)
