"""Every example in a docstring runs, and every public function of ``tracer`` has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from import_graph import ROOT, module_name, project_files

import tracer
from tracer import load

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
EXEMPT = {
    "AttentionExplanation",
    "AttributionGraph",
    "EdgeHeads",
    "EdgePaths",
    "HeadSplit",
    "IndexSummary",
    "InterventionResult",
    "Outcome",
    "PairCheck",
    "ScenarioRun",
    "TrainingReport",
}
"""Values that other calls return: their examples are those of the calls."""


def modules_with_examples() -> list[str]:
    return [
        module_name(path.relative_to(ROOT).as_posix())
        for path in project_files()
        if ">>> " in path.read_text(encoding="utf-8")
    ]


@cache
def loaded(*arguments: Any, **options: Any) -> tracer.Model:
    """Load a model once for the examples of all modules: they only read it."""
    return load(*arguments, **options)


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_a_module_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # examples may write files
    monkeypatch.setenv("CIRCUIT_HOME", str(tmp_path / "home"))
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    module = importlib.import_module(name)
    if name not in ("tracer", tracer.load.__module__):  # whose examples are about loading
        monkeypatch.setattr(tracer, "load", loaded)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)
    assert runner.tries > 0
    assert Path.cwd() == tmp_path and "CIRCUIT_HOME" in os.environ


def needs_example(value: object) -> bool:
    """Return whether a public name is a function or a class; an error says when it is raised."""
    is_error = isinstance(value, type) and issubclass(value, Exception)
    return not is_error and (inspect.isroutine(value) or isinstance(value, type))


def test_every_public_name_has_an_example() -> None:
    public = {name: getattr(tracer, name) for name in set(tracer.__all__) - EXEMPT}
    lacking = [
        name
        for name, value in public.items()
        if needs_example(value) and ">>> " not in (value.__doc__ or "")
    ]
    assert lacking == []
