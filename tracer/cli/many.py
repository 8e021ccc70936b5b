"""``trace --prompts``: hand a file of prompts to the store, which lives outside this package."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tracer.cli.app import dashboard_script
from tracer.errors import PromptError


def trace_file(options: argparse.Namespace) -> None:
    """Trace the prompts of ``options.prompts`` in a process that knows the store.

    Raises :class:`PromptError` for options that a file of prompts cannot have, and
    ``SystemExit`` when a prompt fails.
    """
    unusable = {
        "a prompt": options.prompt,
        "--target": options.target,
        "--contrast": options.contrast,
        "--feature": options.feature,
        "--save": options.save,
    }
    for name, value in unusable.items():
        if value:
            raise PromptError(f"{name} and --prompts exclude each other: name targets in the file")
    command = [sys.executable, "-m", "cache", "trace", str(Path(options.prompts).resolve())]
    for name in ("model", "transcoders", "dtype", "device", "max_features", "ray"):
        value = getattr(options, name)
        if value is not None:
            command += [f"--{name.replace('_', '-')}", _absolute(str(value))]
    if options.summary:
        command += ["--summary", str(Path(options.summary).resolve())]
    if options.json:
        command.append("--json")
    code = subprocess.run(command, cwd=dashboard_script().parent, check=False).returncode
    if code:
        raise SystemExit(code)


def _absolute(name: str) -> str:
    """Return a folder's absolute path; any other name as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name
