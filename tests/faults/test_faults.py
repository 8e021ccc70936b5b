"""The short form of ``python -m tests.faults``."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import faults

if sys.platform == "win32":
    pytest.skip("processes are forked", allow_module_level=True)

RUNS: dict[str, Callable[[], faults.Tally]] = {
    "kills": lambda: faults.kills(6, random.Random(1)),
    "damaged files": lambda: faults.damaged_files(random.Random(1)),
    "flips in the catalogue": lambda: faults.flipped_catalogue(16, random.Random(1)),
    "mutated uploads": lambda: faults.mutated_uploads(60, random.Random(1)),
    "disks": faults.disks,
    "two processes": lambda: faults.two_processes(10),
}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_lost_wrong_or_unhandled(name: str) -> None:
    tally = RUNS[name]()
    assert tally.attempts and tally.is_clean, tally.notes
