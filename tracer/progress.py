"""A progress bar for downloads, traces, indexing and all else that takes a ``progress`` callback.

It is drawn in a terminal and in a notebook, and nowhere else: not in a log, a pipe or a test.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tqdm import tqdm

from tracer.types import Progress

_BYTES: Final = ("downloading", "checking")
"""Descriptions that begin like this count bytes; all others count steps."""


def watched() -> bool:
    """Return whether a person is watching stderr: it is a terminal or the output of a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Yield a progress callback that draws one bar, which is removed at the end.

    A bar starts over whenever the total changes; its description is the current step.

    >>> import tracer
    >>> with tracer.progress_bar() as progress:
    ...     model = tracer.load("atlas", device="cpu", progress=progress)
    ...     graph = tracer.trace(model, "The opposite of hot is", progress=progress)
    >>> graph.next_tokens[0].token
    ' cold'
    """
    bar: tqdm[Any] | None = None

    def report(done: int, total: int, what: str) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(file=sys.stderr, disable=not watched(), leave=False, miniters=1, desc=what)
        bar.set_description_str(what, refresh=False)
        bar.unit_scale = what.startswith(_BYTES)
        bar.unit = "B" if bar.unit_scale else ""
        if bar.total != (total or None):
            bar.total = total or None  # 0 means unknown
            bar.reset()
        bar.update(done - bar.n)

    try:
        yield report
    finally:
        if bar is not None:
            bar.close()
