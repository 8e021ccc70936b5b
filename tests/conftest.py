"""What holds for all tests: nothing of the person who runs them is read, written or installed."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

os.environ["CIRCUIT_HOME"] = tempfile.mkdtemp(prefix="circuit-home-")
atexit.register(shutil.rmtree, os.environ["CIRCUIT_HOME"], ignore_errors=True)
os.environ.pop("CIRCUIT_MODELS", None)
# The tests reach no hub: this port refuses every connection at once.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
# Should what keeps transformer-lens from installing packages ever fail, a test says so; torch is
# not replaced under the person who runs it.
os.environ.update(PIP_NO_INDEX="1", UV_OFFLINE="1")
