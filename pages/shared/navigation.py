"""Paths of the pages' scripts, for links between pages."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PAGES: Final = Path(__file__).resolve().parents[1]


def page_script(name: str) -> Path:
    """Return the script of the page ``name``, such as ``"trace"``."""
    return PAGES / name / "page.py"


def project_text(name: str) -> str:
    """Return a text of `docs/`, such as ``"guide.md"``."""
    return (PAGES.parent / "docs" / name).read_text(encoding="utf-8")
