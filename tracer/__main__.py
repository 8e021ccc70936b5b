"""The command line: ``python -m tracer models | trace | prune | intervene | export | …``.

Exit code 0 on success, 2 with one line on standard error for anything a person can mend, 130 when
it was interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys

from tracer.cli import app, index, intervene, models, search, trace
from tracer.cli.options import Teaching
from tracer.errors import TracerError

_MENDABLE, _INTERRUPTED = 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.run is app.start:
        options.streamlit = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    # Progress bars of libraries would land between a person and the one line they need.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        options.run(options)
    except TracerError as error:
        print(f"error: {error}", file=sys.stderr)
        return _MENDABLE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tracer",
        description="Attribution graphs of language models: what the next token was made from.",
        epilog="""begin with:
  python -m tracer trace "The capital of the state containing Dallas is"
  python -m tracer models

Every command explains itself with --help and prints JSON with --json. Exit code 2 means that
something can be mended, and one line on standard error says what.""",
        formatter_class=Teaching,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    models.add(commands)
    trace.add(commands)
    intervene.add(commands)
    index.add(commands)
    search.add(commands)
    app.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
