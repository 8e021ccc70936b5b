"""`method_fingerprint`: the code and the libraries that the numbers of a graph depend on.

A corrected formula must not be answered with old numbers, and a version number would do only as
long as nobody forgets to raise it. So the key of a graph holds a digest of the code that computes.
Comments, docstrings and formatting are left out, because they change no number.

Left out too: reading and pruning of stored graphs (`tracer/graph`, but not the order of the nodes),
the Hub and the catalogue (the fingerprint of the files covers them), the command line, and the
device. A device changes the last bits only, so a graph traced on a GPU answers the same request
on a CPU; its provenance says where it was computed.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import tracer.graph.graph

TRACE_ROOMS: Final = ("attribution", "graph/nodes.py", "model", "transcoders")
"""Folders and modules of `tracer` that shape the numbers of a graph."""
ATTENTION_ROOMS: Final = (*TRACE_ROOMS, "attention", "graph/pruning.py")
INTERVENTION_ROOMS: Final = (*TRACE_ROOMS, "attention", "interventions")
HEAD_CHECK_ROOMS: Final = (*ATTENTION_ROOMS, "interventions")
"""Questions about attention, of which one runs interventions."""
LIBRARIES: Final = ("torch", "transformer-lens", "transformers")

_TRACER: Final = Path(tracer.graph.graph.__file__).parents[1]


@cache
def method_fingerprint(rooms: tuple[str, ...] = TRACE_ROOMS, package: Path = _TRACER) -> str:
    """Return a digest (64 hex digits) of the code in ``rooms`` and the versions of libraries.

    Computed once per process. It may differ between versions of Python, which print code slightly
    differently.
    """
    digest = hashlib.sha256()
    for path in sorted(_modules(rooms, package)):
        code = code_without_docstrings(path.read_text(encoding="utf-8"))
        digest.update(f"{path.relative_to(package).as_posix()}\0{code}\0".encode())
    for library in LIBRARIES:
        digest.update(f"{library} {_version(library)}\0".encode())
    return digest.hexdigest()


def code_without_docstrings(source: str) -> str:
    """Return Python code in one normal form, without comments and docstrings.

    >>> code_without_docstrings('def double(x):\\n    "Twice x."\\n    return  2*x  # why')
    'def double(x):\\n    return 2 * x'
    """
    return ast.unparse(_WithoutDocstrings().visit(ast.parse(source)))


class _WithoutDocstrings(ast.NodeTransformer):
    """Drops every statement that is only a text: docstrings, also those of attributes."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list) and not body:
            body.append(ast.Pass())
        return node


def _modules(rooms: Iterable[str], package: Path) -> Iterator[Path]:
    for room in rooms:
        path = package / room
        if path.is_file():
            yield path
        else:
            yield from path.rglob("*.py")


def _version(library: str) -> str:
    """Return a version without its build, which names the accelerator: "2.13.0", not "…+cu130"."""
    try:
        return version(library).partition("+")[0]
    except PackageNotFoundError:
        return "not installed"
