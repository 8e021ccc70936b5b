"""The key of a graph changes with the code and libraries that compute, and with nothing else."""

from __future__ import annotations

import ast
import importlib.metadata
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from import_graph import read_imports

from cache import InterveneRequest, ScenarioRequest, TraceRequest
from cache.method import (
    ATTENTION_ROOMS,
    HEAD_CHECK_ROOMS,
    INTERVENTION_ROOMS,
    LIBRARIES,
    TRACE_ROOMS,
    code_without_docstrings,
    method_fingerprint,
)
from cache.request import graph_key, intervene_digest, scenarios_digest, trace_digest

TRACER = Path(__file__).parents[3] / "tracer"
CHANGES_NO_NUMBER = (
    "tracer.catalog",
    "tracer.errors",
    "tracer.files",
    "tracer.graph.generic",
    "tracer.graph.graph",
    "tracer.graph.graph_file",
    "tracer.graph.influence",
    "tracer.graph.order",
    "tracer.graph.stored_generic",
    "tracer.hub",
    "tracer.parsing",
    "tracer.paths",
    "tracer.types",
)
"""What tracing imports and the key need not hold: files are in the fingerprint of the sources,
influence is computed from a stored graph, traced graphs have no generic nodes, and the rest only
carries values around."""


MODULE = '''"""A module."""

LIMIT = 3
"""A documented name."""


class Row:
    """A row."""

    def scaled(self, weight):
        """Return the weight scaled."""
        return weight * LIMIT  # the scale
'''
MODULES = (
    "attribution/trace.py",
    "cli/trace.py",
    "features/cards.py",
    "graph/nodes.py",
    "graph/pruning.py",
    "hub/transfer.py",
    "interventions/run.py",
    "model/model.py",
    "transcoders/load.py",
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small package with the rooms of `tracer`."""
    for module in MODULES:
        path = tmp_path / "tracer" / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MODULE, encoding="utf-8")
    return tmp_path / "tracer"


def fingerprint(package: Path, rooms: tuple[str, ...] = TRACE_ROOMS) -> str:
    method_fingerprint.cache_clear()
    return method_fingerprint(rooms, package)


def edit(path: Path, old: str, new: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert old in source
    path.write_text(source.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A module.", "The first module."),
        ("A documented name.", "A name that is documented."),
        ("A row.", "One row of a graph."),
        ("Return the weight scaled.", "Scale a weight."),
        ("  # the scale", ""),
        ("weight * LIMIT", "(weight\n            * LIMIT)"),
    ],
)
def test_docstrings_comments_and_formatting_do_not_count(package: Path, old: str, new: str) -> None:
    before = fingerprint(package)
    for module in MODULES:
        edit(package / module, old, new)
    assert fingerprint(package) == before


COMPUTING = ("attribution/trace.py", "graph/nodes.py", "model/model.py", "transcoders/load.py")


@pytest.mark.parametrize("module", MODULES)
def test_an_operator_counts_in_the_rooms_that_compute_and_only_there(
    package: Path, module: str
) -> None:
    before = fingerprint(package), fingerprint(package, INTERVENTION_ROOMS)
    edit(package / module, "weight * LIMIT", "weight + LIMIT")
    after = fingerprint(package), fingerprint(package, INTERVENTION_ROOMS)
    assert (before[0] != after[0]) == (module in COMPUTING)
    assert (before[1] != after[1]) == (module in (*COMPUTING, "interventions/run.py"))


def test_new_and_renamed_modules_count(package: Path) -> None:
    before = fingerprint(package)
    new = package / "attribution" / "rows" / "more.py"
    new.parent.mkdir()
    new.write_text("x = 1\n", encoding="utf-8")
    with_new = fingerprint(package)
    new.rename(new.with_name("other.py"))
    assert len({before, with_new, fingerprint(package)}) == 3


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_version_of_a_library_counts_and_its_build_does_not(
    package: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(package)
    installed = importlib.metadata.version

    def version(of: str, ending: str) -> Callable[[str], str]:
        plain = installed(of).partition("+")[0]
        return lambda name: plain + ending if name == of else installed(name)

    monkeypatch.setattr("cache.method.version", version(library, "+cu999"))
    assert fingerprint(package) == before
    monkeypatch.setattr("cache.method.version", version(library, ".post1"))
    assert fingerprint(package) != before


def test_a_missing_library_is_not_an_error(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    before = fingerprint(package)
    monkeypatch.setattr("cache.method.version", missing)
    assert fingerprint(package) != before


# The real package


def test_the_real_code_has_no_docstring_or_comment_in_the_key() -> None:
    sources = [path.read_text(encoding="utf-8") for path in sorted(TRACER.rglob("*.py"))]
    for source in sources[:: len(sources) // 20]:
        code = code_without_docstrings(source)
        assert code == code_without_docstrings(f"# a comment\n{source}\n\n\n")
        assert not [node for node in ast.walk(ast.parse(code)) if is_lone_text(node)]


def is_lone_text(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def test_an_operator_in_the_real_attribution_changes_the_key(tmp_path: Path) -> None:
    package = tmp_path / "tracer"
    shutil.copytree(TRACER / "attribution", package / "attribution")
    rooms = ("attribution",)
    before = fingerprint(package, rooms)
    assert before == fingerprint(TRACER, rooms)
    path = package / "attribution" / "edge_rows.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    division = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    )
    division.op = ast.Mult()
    path.write_text(ast.unparse(tree), encoding="utf-8")
    assert fingerprint(package, rooms) != before


all_imports = cache(read_imports)


def module_of(room: str) -> str:
    return f"tracer.{room.removesuffix('.py').replace('/', '.')}"


def imported_from(module: str) -> set[str]:
    """Return every module of `tracer` that ``module`` imports, directly or not."""
    imports, seen, left = all_imports(), set(), [module]
    while left:
        name = left.pop()
        if name in imports and name not in seen:
            seen.add(name)
            left.extend(imports[name])
    return seen


def is_in(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


@pytest.mark.parametrize(
    ("entry", "rooms"),
    [
        ("tracer.attribution.trace", TRACE_ROOMS),
        ("tracer.model.model", TRACE_ROOMS),
        ("tracer.interventions.run", INTERVENTION_ROOMS),
        ("tracer.attention.split", ATTENTION_ROOMS),
        ("tracer.attention.split_edges", ATTENTION_ROOMS),
        ("tracer.attention.explain", ATTENTION_ROOMS),
        ("tracer.interventions.head_check", HEAD_CHECK_ROOMS),
    ],
)
def test_everything_that_computes_is_in_the_key(entry: str, rooms: tuple[str, ...]) -> None:
    """A new module must be added to one list or the other."""
    in_the_key = tuple(module_of(room) for room in rooms)
    uncovered = {
        module
        for module in imported_from(entry)
        if not is_in(module, in_the_key) and not is_in(module, CHANGES_NO_NUMBER)
    }
    assert uncovered == set()
    assert entry in imported_from(entry)


@pytest.mark.parametrize("rooms", [TRACE_ROOMS, INTERVENTION_ROOMS])
def test_every_named_room_exists(rooms: tuple[str, ...]) -> None:
    assert all((TRACER / room).exists() for room in rooms)


def test_the_method_is_in_every_digest_of_computed_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trace = TraceRequest("x")

    def digests() -> set[str]:
        return {
            trace_digest("f", trace),
            graph_key("f", (1,), trace),
            intervene_digest("f", InterveneRequest("x", ())),
            scenarios_digest("f", ScenarioRequest("x", ())),
        }

    before = digests()
    monkeypatch.setattr("cache.request.method_fingerprint", lambda *rooms: "other code")
    assert len(before | digests()) == 8
