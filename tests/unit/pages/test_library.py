"""The Library page of somebody who has never traced anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).resolve().parents[3]


def test_an_empty_library_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRCUIT_STORE", str(tmp_path / "store"))
    st.cache_resource.clear()
    app = AppTest.from_string(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pages import _library\n"
        "_library.draw()",
        default_timeout=60,
    ).run()
    assert not app.exception
    assert len(app.info) == 1 and "trace a prompt" in app.info[0].value
    assert "drop a graph file" in app.info[0].value
    st.cache_resource.clear()
