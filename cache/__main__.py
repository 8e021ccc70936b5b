"""``python -m cache verify | repair | prune | stats | trace``: the store from the command line.

Exit code 0 means that all is well, 1 that something was damaged, 2 an error that one line explains.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from cache import many_command
from cache.catalogue import StoreError
from cache.opening import default_root
from cache.store import DEFAULT_QUOTA, Store
from tracer import paths
from tracer.errors import TracerError
from tracer.files import format_bytes


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if hasattr(options, "command"):
            return int(options.command(options))
        root = Path(options.store) if options.store else default_root()
        if not (root / "catalogue.sqlite").exists() and not (root / "graphs").is_dir():
            raise StoreError(f"{root} is not a store: name its folder with --store")
        quota = paths.shared_quota("CIRCUIT_STORE_GB", DEFAULT_QUOTA, StoreError)
        if getattr(options, "gb", None) is not None:
            quota = int(options.gb * 1e9)
        store = Store(root, quota)
        try:
            return int(options.run(store, options))
        finally:
            store.close()
    except TracerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what is done is kept; the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cache", description=__doc__)
    parser.add_argument("--store", metavar="FOLDER", help="the store (default: CIRCUIT_STORE)")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, run, text in (
        ("verify", _verify, "read everything and report what is damaged; change nothing in it"),
        ("repair", _repair, "set damaged files aside and rebuild what can be rebuilt"),
        ("prune", _prune, "delete the least recently used graphs without annotations"),
        ("stats", _stats, "say what is stored and how much space it takes"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        command.add_argument("--json", action="store_true", help="print JSON instead of text")
        if name == "prune":
            command.add_argument(
                "--gb", type=float, metavar="GB", help="keep at most this much (default: the quota)"
            )
    many_command.add(commands)
    return parser


def _verify(store: Store, options: argparse.Namespace) -> int:
    problems = store.verify()
    if options.json:
        print(json.dumps({"graphs": len(store.entries()), "problems": problems}))
    else:
        for problem in problems:
            print(problem)
        print(f"{len(store.entries())} graphs, {len(problems)} problems")
    return 1 if problems else 0


def _repair(store: Store, options: argparse.Namespace) -> int:
    before = set(store.damaged())
    for entry in store.entries():
        store.load(entry.key)
    repaired = [file for file in store.damaged() if file not in before]
    if options.json:
        print(json.dumps([asdict(file) for file in store.damaged()]))
    else:
        for file in store.damaged():
            print(f"{file.file}: {file.reason}")
        print(f"{len(store.entries())} graphs are intact, {len(repaired)} were damaged just now")
    return 1 if store.verify() else 0


def _prune(store: Store, options: argparse.Namespace) -> int:
    use = store.use
    if options.json:
        print(json.dumps(asdict(use)))
    else:
        print(f"traced graphs take {format_bytes(use.traced)} of {format_bytes(use.quota)}")
    return 0


def _stats(store: Store, options: argparse.Namespace) -> int:
    entries, use = store.entries(), store.use
    counts = {
        "graphs": len(entries),
        "imported": sum(entry.imported for entry in entries),
        "titled": sum(bool(entry.title) for entry in entries),
        "damaged": len(store.damaged()),
        **{f"{name}_bytes": size for name, size in asdict(use).items()},
        "problem": store.problem,
    }
    if options.json:
        print(json.dumps(counts))
    else:
        for name, value in counts.items():
            text = format_bytes(int(value)) if name.endswith("_bytes") else value
            print(f"{name.replace('_', ' ').removesuffix(' bytes')}: {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
