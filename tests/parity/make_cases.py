"""Write the small random model and transcoder sets that the golden files are about."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "unit" / "tracer")]

import tiny  # noqa: E402

if __name__ == "__main__":
    tiny.save_model(HERE / "model")
    tiny.save_transcoders(HERE / "per-layer")
    tiny.save_transcoders(HERE / "cross-layer", "cross_layer_transcoder")
