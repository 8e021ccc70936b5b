"""Where the embedded model's files stand. Imports nothing, so that anyone may ask."""

from __future__ import annotations

from pathlib import Path
from typing import Final

WEIGHTS: Final = Path(__file__).parent / "weights"
