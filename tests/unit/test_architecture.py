"""The house of the design: imports run downward only, and no file grows into a second one."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pytest
from import_graph import (
    ROOMS,
    circles,
    imported_names,
    module_name,
    project_files,
    read_imports,
    room_of,
    upward,
)

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("tracer", "cache", "charts", "pages")
MAX_LINES = 400
GROUND = {
    "__init__.py",
    "__main__.py",
    "errors.py",
    "progress.py",
    "types.py",
    "files.py",
    "paths.py",
    "parsing.py",
}
"""The only modules directly in ``tracer/``."""

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
    "transformer_lens": ("tracer/model/bridge.py",),
    "huggingface_hub": ("tracer/hub/",),
    "tracer.atlas": ("tracer/atlas/", "pages/", "app.py"),
    "sqlite3": ("cache/",),
}
"""Packages that only these files may import."""


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def violations(path: str, source: str) -> list[str]:
    """Return what ``source`` may not do in the file ``path`` (relative, with slashes)."""
    room = path.split("/")[0]
    package = ".".join(path.split("/")[:-1])
    found = []
    for module in imported_names(source, package):
        if any(is_in(module, name) for name in (*FORBIDDEN.get(room, ()), *PICKLE)):
            found.append(f"{path} imports {module}")
        for name, places in ONLY_IN.items():
            if is_in(module, name) and not path.startswith(places):
                found.append(f"{path} imports {module}, which belongs in {', '.join(places)}")
    lines = source.count("\n")
    if lines > MAX_LINES:
        found.append(f"{path} has {lines} lines, at most {MAX_LINES} may be")
    return found


@cache
def project_imports() -> Mapping[str, frozenset[str]]:
    """Return the imports of the project; to parse every file takes a second."""
    return MappingProxyType(read_imports())


def files() -> list[str]:
    return [file.relative_to(ROOT).as_posix() for file in project_files()]


def test_imports_run_downward() -> None:
    sources = {path: (ROOT / path).read_text(encoding="utf-8") for path in files()}
    assert [each for path, source in sources.items() for each in violations(path, source)] == []


def overlong(root: Path) -> list[str]:
    """Return every Python file of the checkout that is too long, tests and scripts included."""
    folders = (*FOLDERS, "tests", "benchmarks", "scripts")
    paths = [path for folder in folders for path in (root / folder).rglob("*.py")]
    return [
        f"{path.relative_to(root).as_posix()} has {lines} lines, at most {MAX_LINES} may be"
        for path in sorted(paths)
        if (lines := path.read_text(encoding="utf-8").count("\n")) > MAX_LINES
    ]


def test_no_file_is_too_long_tests_and_scripts_included() -> None:
    assert overlong(ROOT) == []


@pytest.mark.parametrize("folder", ["tests/unit", "benchmarks", "scripts", "tracer/graph"])
def test_a_file_that_is_too_long_is_found(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "long.py").write_text("\n" * (MAX_LINES + 1))
    (tmp_path / folder / "short.py").write_text("\n" * MAX_LINES)
    assert overlong(tmp_path) == [f"{folder}/long.py has {MAX_LINES + 1} lines, at most 400 may be"]


def test_every_room_has_files() -> None:
    assert set(ROOMS) - {room_of(module_name(path)) for path in files()} == set()


def test_rooms_import_only_rooms_below_them() -> None:
    assert upward(project_imports()) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(project_imports()) == []


def test_only_ground_modules_are_directly_in_tracer() -> None:
    assert {file.name for file in (ROOT / "tracer").glob("*.py")} == GROUND


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("tracer.graph.pruning", "tracer.attribution.trace"),
        ("tracer.errors", "tracer.types"),
        ("tracer.model.bridge", "tracer"),
        ("cache.store", "pages.shared.session"),
        ("pages.shared.session", "pages.trace.view"),
    ],
)
def test_a_reversed_import_breaks_the_order(module: str, target: str) -> None:
    imports = {**project_imports(), module: frozenset({target})}
    assert [line for line in upward(imports) if line.startswith(f"{module} imports {target}")]


def test_a_circle_inside_a_room_is_found() -> None:
    imports = dict(project_imports())
    imports["tracer.graph.nodes"] |= {"tracer.graph.graph"}
    modules = ("graph", "graph_file", "influence", "nodes", "order", "stored_generic")
    assert tuple(f"tracer.graph.{name}" for name in modules) in circles(imports)


def test_a_folder_that_is_not_in_the_list_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tracer\.utils\.text is in no room"):
        room_of("tracer.utils.text")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("tracer/graph/graph.py", "import streamlit as st"),
        ("tracer/graph/graph.py", "import pandas"),
        ("tracer/graph/graph.py", "from cache import Backend"),
        ("tracer/graph/graph.py", "from charts.graph import graph_figure"),
        ("tracer/graph/graph.py", "def later():\n    import plotly.graph_objects as go"),
        (
            "tracer/graph/graph.py",
            "from importlib import import_module\nimport_module('pages.trace')",
        ),
        ("tracer/graph/graph.py", "import transformer_lens"),
        ("tracer/graph/pruning.py", "from transformer_lens.model_bridge import TransformerBridge"),
        ("tracer/features/cards.py", "from huggingface_hub import hf_hub_download"),
        ("tracer/catalog/resolve.py", "def later():\n    from huggingface_hub import HfApi"),
        ("tracer/model/model.py", "from tracer.atlas.gallery import gallery"),
        ("tracer/model/model.py", "from tracer.atlas import gallery"),
        ("tracer/model/model.py", "from ..atlas import gallery"),
        ("tracer/transcoders/transcoder.py", "from ..atlas.train import train"),
        ("cache/store.py", "import pickle"),
        ("cache/store.py", "import streamlit"),
        ("cache/backend.py", "from pages.shared.session import session"),
        ("charts/graph.py", "import torch"),
        ("charts/graph.py", "from cache import Job"),
        ("charts/graph.py", "if True:\n    import streamlit"),
        ("pages/trace/page.py", "import torch.nn as nn"),
        ("pages/trace/page.py", "import sqlite3"),
        ("app.py", "import sqlite3"),
        ("tracer/graph/graph.py", "\n" * (MAX_LINES + 1)),
    ],
)
def test_the_check_catches(path: str, source: str) -> None:
    assert len(violations(path, source)) >= 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("tracer/graph/graph.py", "import numpy as np\nimport torch"),
        ("tracer/catalog/resolve.py", "from tracer.paths import ATLAS_WEIGHTS"),
        ("tracer/model/bridge.py", "import transformer_lens"),
        ("tracer/hub/transfer.py", "from huggingface_hub import HfApi"),
        ("tracer/atlas/train.py", "from tracer.atlas.corpus import corpus"),
        ("tracer/transcoders/transcoder.py", "from .load import read"),
        ("cache/engine.py", "import tracer, torch"),
        ("charts/graph.py", "import plotly.graph_objects as go, pandas"),
        ("charts/graph.py", "from tracer import PrunedGraph"),
        ("pages/trace/page.py", "import streamlit, cache, charts, tracer.atlas.gallery"),
        ("pages/trace/page.py", "'import torch'  # said, not done"),
        ("tracer/graph/graph.py", "\n" * MAX_LINES),
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


LIGHT_ROOMS = (
    "tracer/errors",
    "tracer/types",
    "tracer/files",
    "tracer/paths",
    "tracer/parsing",
    "tracer/progress",
    "tracer/graph",
    "tracer/hub",
    "tracer/catalog",
    "tracer/features",
    "tracer",
)
"""Rooms that load nothing heavy when they are imported."""
LIGHT_MODULES = (
    "tracer.transcoders",
    "tracer.transcoders.config",
    "tracer.model",
    "tracer.interchange.graph_json",
    "tracer.interchange.nodes",
    "tracer.interchange.convert",
    "tracer.interventions",
    "tracer.interventions.scenario",
    "tracer.interventions.faithfulness",
    "tracer.interventions.script",
    "tracer.interventions.transfer",
)
"""The same for single modules of rooms that compute."""


def test_reading_a_graph_and_its_features_needs_no_torch() -> None:
    modules = [module_name(path) for path in files()]
    light = [module for module in modules if room_of(module) in LIGHT_ROOMS]
    assert loaded_by([*light, *LIGHT_MODULES]) == set()


def test_the_heavy_packages_are_noticed() -> None:
    assert "pandas" in loaded_by(["pandas"])


def test_no_two_test_files_have_the_same_name() -> None:
    """Test folders are not packages, so pytest imports one of two such files for both."""
    names = Counter(
        path.name for path in (ROOT / "tests").rglob("test_*.py") if not _in_package(path)
    )
    assert [name for name, count in names.items() if count > 1] == []


def _in_package(path: Path) -> bool:
    return (path.parent / "__init__.py").exists()
