"""The benchmark for people with a GPU at hand runs from end to end, here on the CPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = "--layers 2 --d-model 32 --features 64 --vocabulary 64 --max-features 8 --active 5"


def test_every_step_finds_a_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import gpu

    monkeypatch.setattr(gpu, "SLOW", 0.0)
    precision = "bfloat16 weights"
    gpu.main([*["--device", "cpu", "--documents", "4"], *SMALL.split(), "--precision", precision])
    table = capsys.readouterr().out
    for step in ("opening", "12 tokens", "64 tokens", "longest prompt", "scenarios", "index"):
        assert f"| {precision}: {step} |" in table
    for found in ("tokens/s over", "128 tokens in", "of the weight", "rounding error"):
        assert found in table
    assert "left out" not in table and "refused" not in table
