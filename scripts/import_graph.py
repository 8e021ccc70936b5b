"""Print the import graph of the project: every room, its floor, and what it imports.

    python scripts/import_graph.py

A room is a folder of modules, or a module that belongs to no folder. Floors count from the bottom:
a room is one floor above the highest room that it imports. The order in `ROOMS` is the law; an
arrow that points up in it, and any circle, is an error (exit code 1). Nothing is imported to find
out: the sources are read.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

ROOMS: Final = (
    "tracer/errors",
    "tracer/types",
    "tracer/files",
    "tracer/paths",
    "tracer/parsing",
    "tracer/progress",
    "tracer/cluster",
    "tracer/graph",
    "tracer/hub",
    "tracer/transcoders",
    "tracer/catalog",
    "tracer/model",
    "tracer/features",
    "tracer/interchange",
    "tracer/attribution",
    "tracer/attention",
    "tracer/search",
    "tracer/indexing",
    "tracer/training",
    "tracer/interventions",
    "tracer",
    "tracer/cli",
    "tracer/atlas",
    "tracer/novels",
    "tracer/__main__",
    "cache",
    "charts",
    "pages",
    "pages/shared",
    "pages/shell",
    "pages/trace",
    "pages/interventions",
    "pages/compare",
    "pages/features",
    "pages/library",
    "pages/models",
    "pages/guide",
    "pages/about",
    "app",
)
"""Every room, bottom up. A room imports only rooms before it."""

Imports = Mapping[str, frozenset[str]]
"""What every module imports, both as dotted names."""


@cache
def imported_names(source: str, package: str = "") -> tuple[str, ...]:
    """Return everything that ``source`` imports, wherever in the file, relative names resolved.

    ``from a import b`` gives ``a.b``, whether ``b`` is a module or a name inside ``a``.
    """
    return tuple(_imported_names(source, package))


def _imported_names(source: str, package: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            parts = [*parents, node.module or ""] if node.level else [node.module or ""]
            base = ".".join(parts).strip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            if called in ("import_module", "__import__"):
                yield str(node.args[0].value)


def project_files(root: Path = ROOT) -> list[Path]:
    """Return the source files of the project, tests and scripts left out."""
    folders = ("tracer", "cache", "charts", "pages")
    return [*(file for name in folders for file in sorted((root / name).rglob("*.py"))),
            root / "app.py"]  # fmt: skip


def module_name(path: str) -> str:
    """Return the dotted name of a file, given relative to the root with slashes."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def read_imports(root: Path = ROOT) -> dict[str, frozenset[str]]:
    """Return which modules of the project every module of it imports."""
    sources = {file.relative_to(root).as_posix(): file for file in project_files(root)}
    known = {module_name(path) for path in sources}
    found = {}
    for path, file in sources.items():
        package = module_name(path if path.endswith("__init__.py") else str(Path(path).parent))
        names = imported_names(file.read_text(encoding="utf-8"), package.replace("/", "."))
        own = module_name(path)
        modules = (_module_of(name, known) for name in names)
        found[own] = frozenset(module for module in modules if module and module != own)
    return found


def _module_of(name: str, known: set[str]) -> str:
    """Return the module of the project that an imported name is, or is in; else an empty text."""
    return (
        name
        if name in known
        else next((base for base in (name.rpartition(".")[0],) if base in known), "")
    )


def room_of(module: str, rooms: Iterable[str] = ROOMS) -> str:
    """Return the room of a module: the longest room that its name begins with.

    Raises ``ValueError`` for a module in no room: a new folder needs a place in the list.
    """
    path = module.replace(".", "/")
    rooms = list(rooms)
    if path in rooms:
        return path
    inside = [
        room for room in rooms if path.startswith(f"{room}/") and room not in ("tracer", "pages")
    ]
    if not inside:
        raise ValueError(f"{module} is in no room: give it a place in ROOMS")
    return max(inside, key=len)


def arrows(imports: Imports) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Return which room imports which, each with the modules that make the arrow.

    ``import tracer`` is an arrow to ``tracer/__init__``, the public API.
    """
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for module, targets in imports.items():
        for target in targets:
            pair = room_of(module), room_of(target)
            if pair[0] != pair[1]:
                found.setdefault(pair, []).append((module, target))
    return found


def upward(imports: Imports, rooms: tuple[str, ...] = ROOMS) -> list[str]:
    """Return every import that points up in the order of the rooms, in words."""
    return [
        f"{module} imports {target}: {room} is below {other}"
        for (room, other), pairs in sorted(arrows(imports).items())
        for module, target in pairs
        if rooms.index(room) < rooms.index(other)
    ]


def circles(imports: Imports) -> list[tuple[str, ...]]:
    """Return the groups of modules that import each other in a circle."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[tuple[str, ...]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for target in imports.get(module, ()):
            if target not in order:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], order[target])
        if low[module] == order[module]:
            group = []
            while not group or group[-1] != module:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(tuple(sorted(group)))

    for module in imports:
        if module not in order:
            visit(module)
    return found


def floors(imports: Imports) -> dict[str, int]:
    """Return the floor of every room, 1 at the bottom; arrows that point up are left out."""
    below: dict[str, set[str]] = {room: set() for room in ROOMS}
    for room, other in arrows(imports):
        if ROOMS.index(other) < ROOMS.index(room):
            below[room].add(other)
    found: dict[str, int] = {}
    for room in ROOMS:
        found[room] = 1 + max((found[other] for other in below[room]), default=0)
    return found


def main() -> int:
    """Print the rooms from the top floor down; return 1 where the order is broken."""
    imports = read_imports()
    heights, between = floors(imports), arrows(imports)
    lines = dict.fromkeys(ROOMS, 0)
    for file in project_files():
        name = module_name(file.relative_to(ROOT).as_posix())
        lines[room_of(name)] += file.read_text(encoding="utf-8").count("\n")
    for room in sorted(ROOMS, key=lambda room: (-heights[room], room)):
        needs = sorted({other for one, other in between if one == room}, key=ROOMS.index)
        print(f"floor {heights[room]:2}  {room:24} {lines[room]:5} lines  {', '.join(needs)}")
    wrong, round_about = upward(imports), circles(imports)
    print(f"{len(ROOMS)} rooms, {len(between)} arrows, {len(wrong)} upward, "
          f"{len(round_about)} circles")  # fmt: skip
    for line in (*wrong, *(f"circle: {', '.join(group)}" for group in round_about)):
        print(line)
    return 1 if wrong or round_about else 0


if __name__ == "__main__":
    sys.exit(main())
