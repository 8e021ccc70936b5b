"""The house of the design: imports run downward only, and no file grows into a second one."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("tracer", "cache", "charts", "pages")
MAX_LINES = 450

FORBIDDEN: dict[str, tuple[str, ...]] = {
    "tracer": ("streamlit", "plotly", "pandas", "cache", "charts", "pages", "app"),
    "cache": ("streamlit", "plotly", "pandas", "charts", "pages", "app"),
    "charts": ("streamlit", "torch", "transformer_lens", "transformers", "cache", "pages", "app"),
    "pages": ("torch", "transformer_lens", "transformers", "app"),
}
"""What a room may not import; everything above it, and what is too heavy for it."""

PICKLE = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
"""A file that is unpickled runs code: nothing here reads or writes one."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "transformer_lens": ("tracer/bridge.py", "tracer/models.py"),
    "huggingface_hub": ("tracer/hub/",),
    "tracer.atlas": ("tracer/atlas/", "pages/", "app.py"),
    "sqlite3": ("cache/",),
}
"""Modules that know something nobody else should have to; ``tracer.atlas.paths`` is free to all."""


def imports(source: str, package: str = "") -> Iterator[str]:
    """Every module that ``source`` imports, wherever in the file, relative names resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*parents, node.module or ""] if node.level else [node.module or ""])
            base = base.strip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute | ast.Name)
            and (node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id)
            in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)


def stands_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def violations(path: str, source: str) -> list[str]:
    """Why ``source`` may not stand at ``path`` (relative to the project, with slashes)."""
    room = path.split("/")[0]
    package = ".".join(path.split("/")[:-1])
    found = []
    for module in imports(source, package):
        if any(stands_in(module, name) for name in (*FORBIDDEN.get(room, ()), *PICKLE)):
            found.append(f"{path} imports {module}")
        for name, places in ONLY_IN.items():
            free = stands_in(module, "tracer.atlas.paths")
            if stands_in(module, name) and not free and not path.startswith(places):
                found.append(f"{path} imports {module}, which belongs in {', '.join(places)}")
    lines = source.count("\n")
    if lines > MAX_LINES:
        found.append(f"{path} has {lines} lines, at most {MAX_LINES} may be")
    return found


def files() -> list[str]:
    inside = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
    return [file.relative_to(ROOT).as_posix() for file in [*inside, ROOT / "app.py"]]


@pytest.mark.parametrize("path", files())
def test_imports_run_downward(path: str) -> None:
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_looked_into(room: str) -> None:
    assert any(path.startswith(f"{room}/") for path in files())


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("tracer/graph.py", "import streamlit as st"),
        ("tracer/graph.py", "import pandas"),
        ("tracer/graph.py", "from cache import Backend"),
        ("tracer/graph.py", "from charts.graph import graph_figure"),
        ("tracer/graph.py", "def later():\n    import plotly.graph_objects as go"),
        ("tracer/graph.py", "from importlib import import_module\nimport_module('pages.trace')"),
        ("tracer/graph.py", "import transformer_lens"),
        ("tracer/pruning.py", "from transformer_lens.model_bridge import TransformerBridge"),
        ("tracer/features.py", "from huggingface_hub import hf_hub_download"),
        ("tracer/sources.py", "def later():\n    from huggingface_hub import HfApi"),
        ("tracer/models.py", "from tracer.atlas.gallery import gallery"),
        ("tracer/models.py", "from tracer.atlas import gallery"),
        ("tracer/models.py", "from .atlas import gallery"),
        ("tracer/transcoders/sets.py", "from ..atlas.train import train"),
        ("cache/store.py", "import pickle"),
        ("cache/store.py", "import streamlit"),
        ("cache/backend.py", "from pages._session import session"),
        ("charts/graph.py", "import torch"),
        ("charts/graph.py", "from cache import Job"),
        ("charts/graph.py", "if True:\n    import streamlit"),
        ("pages/trace.py", "import torch.nn as nn"),
        ("pages/trace.py", "import sqlite3"),
        ("app.py", "import sqlite3"),
        ("tracer/graph.py", "\n" * (MAX_LINES + 1)),
    ],
)
def test_the_check_catches(path: str, source: str) -> None:
    assert len(violations(path, source)) >= 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("tracer/graph.py", "import numpy as np\nimport torch"),
        ("tracer/sources.py", "from tracer.atlas.paths import WEIGHTS"),
        ("tracer/bridge.py", "import transformer_lens"),
        ("tracer/hub/transfer.py", "from huggingface_hub import HfApi"),
        ("tracer/atlas/train.py", "from tracer.atlas.corpus import corpus"),
        ("tracer/transcoders/sets.py", "from .reading import read"),
        ("cache/engine.py", "import tracer, torch"),
        ("charts/graph.py", "import plotly.graph_objects as go, pandas"),
        ("charts/graph.py", "from tracer import PrunedGraph"),
        ("pages/trace.py", "import streamlit, cache, charts, tracer.atlas.gallery"),
        ("pages/trace.py", "'import torch'  # said, not done"),
        ("tracer/graph.py", "\n" * MAX_LINES),
    ],
)
def test_the_check_lets_pass(path: str, source: str) -> None:
    assert violations(path, source) == []


HEAVY = {"torch", "transformers", "streamlit", "plotly", "pandas", "huggingface_hub"}


def loaded_by(modules: list[str]) -> set[str]:
    """Which of the heavy packages a fresh Python has loaded once it has imported ``modules``."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from importlib import import_module\n"
        f"for name in {modules!r}: import_module(name)\n"
        f"print(*{HEAVY!r} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def modules_of(room: str) -> list[str]:
    paths = [path for path in files() if path.startswith(f"{room}/")]
    return [path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in paths]


def test_opening_the_cache_loads_nothing_heavy() -> None:
    assert loaded_by(modules_of("cache")) == set()


def test_drawing_needs_no_model_and_no_streamlit() -> None:
    assert not loaded_by(modules_of("charts")) & {"torch", "transformers", "streamlit"}


def test_reading_a_graph_and_its_features_needs_no_torch() -> None:
    light = [
        "tracer",
        "tracer.graph",
        "tracer.pruning",
        "tracer.sources",
        "tracer.features",
        "tracer.hub",
        "tracer.explanations",
    ]
    assert loaded_by(light) == set()


def test_the_heavy_packages_are_noticed() -> None:
    assert "pandas" in loaded_by(["pandas"])
