"""``app``: start the dashboard."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, Final

from tracer.cli.options import ExamplesFormatter
from tracer.errors import TracerError

_INSTALLED: Final = "circuit_tracing_dashboard"


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "app",
        help="start the dashboard in the browser",
        description="Start the dashboard. Options that are not listed here go to `streamlit run`.",
        epilog="""examples:
  circuit-tracing app
  circuit-tracing app --server.port 8600
""",
        formatter_class=ExamplesFormatter,
    )
    parser.set_defaults(run=start)


def dashboard_script() -> Path:
    """Return the dashboard's ``app.py``: in a checkout next to ``tracer``, else as installed.

    Raises :class:`TracerError` where neither is there.
    """
    packages = Path(__file__).resolve().parents[2]
    for script in (packages / "app.py", packages / _INSTALLED / "app.py"):
        if script.is_file() and (script.parent / "pages").is_dir():
            return script
    raise TracerError(
        f"the dashboard is not installed: neither app.py nor {_INSTALLED} is in {packages}; "
        "install the package again with `pip install .`"
    )


def start(options: argparse.Namespace) -> None:
    """Become the dashboard's server; ``options.streamlit`` are the further options."""
    script = dashboard_script()
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
    command += ["--server.showEmailPrompt", "false", *options.streamlit]
    os.chdir(script.parent)  # where Streamlit looks for .streamlit/config.toml
    os.execv(sys.executable, command)
