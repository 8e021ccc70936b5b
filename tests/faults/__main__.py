"""``python -m tests.faults``: break the store in every way we know. Takes minutes; bounded.

Exit code 1 when an acknowledged write was lost without notice, an answer was wrong, an error was
not a sentence, or the store did not open.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import faults
from server_kills import server_kills


def main() -> int:
    """Run all attempts and print a line each."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="a tenth of the attempts")
    options = parser.parse_args()
    logging.disable()  # every damage is logged, and there is much
    source = random.Random(options.seed)
    part = 10 if options.short else 1
    clean = True
    for name, run in (
        ("kills of a writing process", lambda: faults.kills(190 // part, source)),
        ("kills of the server", lambda: server_kills(10 // part, source)),
        ("damaged files", lambda: faults.damaged_files(source)),
        ("bit flips in the catalogue", lambda: faults.flipped_catalogue(400 // part, source)),
        ("mutated uploads", lambda: faults.mutated_uploads(1000 // part, source)),
        ("full and read-only disks", faults.disks),
        ("pins of two processes", lambda: faults.two_processes(100 // part)),
    ):
        begun = time.perf_counter()
        tally = run()
        clean &= tally.is_clean
        print(
            f"{tally.attempts:5} {name}: {tally.lost} lost without notice, {tally.wrong} wrong "
            f"answers, {tally.unhandled} unhandled errors, {tally.closed} times not opened "
            f"({time.perf_counter() - begun:.0f} s)",
            flush=True,
        )
        for note in tally.notes[:10]:
            print(f"      {note}")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
