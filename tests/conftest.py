"""What holds for all tests: nothing of the person who runs them is read or written."""

from __future__ import annotations

import os
import tempfile

os.environ["CIRCUIT_HOME"] = tempfile.mkdtemp(prefix="circuit-home-")
os.environ.pop("CIRCUIT_MODELS", None)
