"""The command line: ``python -m tracer COMMAND``; see ``python -m tracer --help``.

Exit code 0 means success, 2 an error that a one-line message on stderr explains, and 130 an
interrupt (Ctrl-C).
"""

from __future__ import annotations

import argparse
import os
import sys

from tracer.cli import app, attention, index, intervene, models, search, trace, train
from tracer.cli.failures import failure_message
from tracer.cli.habits import translated
from tracer.cli.options import ExamplesFormatter
from tracer.errors import TracerError

_FAILED, _INTERRUPTED = 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code.

    >>> main(["intervene", "The capital of Texas is", "--set", "0:-1:3"])
    2
    """
    parser = _parser()
    try:
        given = translated(sys.argv[1:] if arguments is None else arguments)
    except TracerError as error:
        return _failed(str(error))
    options, rest = parser.parse_known_args(given)
    if options.run is app.start:
        options.streamlit = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    # Progress bars of libraries would appear between a person and the one line they need.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        options.run(options)
    except TracerError as error:
        return _failed(str(error))
    except (MemoryError, RuntimeError) as error:
        message = failure_message(error)
        if message is None:
            raise
        return _failed(message)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _failed(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return _FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tracer",
        description="""\
Attribution graphs of language models: which features lead to the next token.

examples:
  python -m tracer trace "The capital of the state containing Dallas is"
  python -m tracer models""",
        epilog="Every command has --help with examples; all but app have --json. Exit code 2 means "
        "an error,\nexplained in one line on stderr.",
        formatter_class=ExamplesFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    models.add(commands)
    trace.add(commands)
    intervene.add(commands)
    attention.add(commands)
    index.add(commands)
    search.add(commands)
    train.add(commands)
    app.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
