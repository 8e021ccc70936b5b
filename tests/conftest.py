"""What holds for all tests: nothing of the person who runs them is read, written or installed."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import pytest

os.environ["CIRCUIT_HOME"] = tempfile.mkdtemp(prefix="circuit-home-")
atexit.register(shutil.rmtree, os.environ["CIRCUIT_HOME"], ignore_errors=True)
os.environ.pop("CIRCUIT_MODELS", None)
# The tests reach no hub: this port refuses every connection at once.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
# Should what keeps transformer-lens from installing packages ever fail, a test says so; torch is
# not replaced under the person who runs it.
os.environ.update(PIP_NO_INDEX="1", UV_OFFLINE="1")

LONG = ("training/test_train.py", "atlas/test_shipped.py", "atlas/test_feature_index.py")
"""Files that take more than ten seconds. At the end of a run, one would keep one worker waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the browser tests first, whose files take longest, and then the other long files."""
    items.sort(key=lambda item: (not _is(item, ("e2e/",)), not _is(item, LONG)))


def _is(item: pytest.Item, parts: tuple[str, ...]) -> bool:
    return any(part in item.path.as_posix() for part in parts)
