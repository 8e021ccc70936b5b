"""How a place on the hub is written: ``org/name``, ``org/name/folder@revision``, ``hf://…``.

Text only: whether the place exists is not asked here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import parse_qsl

from tracer.errors import HubReferenceError

FORMS: Final = "org/name, org/name/folder@revision, or hf://org/name/path?revision=revision"

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")
_PART: Final = re.compile(r"[^\s\\@?#*:<>|\"\x00-\x1f]+")
_REVISION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]*")


@dataclass(frozen=True)
class Reference:
    """A place on the hub."""

    repo: str
    """``org/name``"""
    folder: str = ""
    """A folder inside the repository, or a file; empty for its root."""
    revision: str | None = None
    """A branch, tag or commit; None for the repository's main branch."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The place that ``text`` names; raises :class:`HubReferenceError` for anything else."""
        rest, revision = text.strip(), None
        if rest.startswith("hf://"):
            rest, mark, query = rest.removeprefix("hf://").partition("?")
            if mark:
                revision = _queried_revision(text, query)
        rest, mark, after = rest.partition("@")
        if mark and revision is not None:
            raise _refused(text, "it names two revisions")
        revision = after if mark else revision
        parts = rest.removesuffix("/").split("/")
        if len(parts) < 2:
            raise _refused(text, "a repository has two names, its owner's and its own")
        for name in parts[:2]:
            if not _NAME.fullmatch(name) or ".." in name or "--" in name or name[-1] in ".-":
                raise _refused(text, f"{name!r} is no name of an owner or a repository")
        for part in parts[2:]:
            if not _PART.fullmatch(part) or part in (".", ".."):
                raise _refused(text, f"{part!r} is no name of a folder or a file")
        if revision is not None and (
            not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision
        ):
            raise _refused(text, f"{revision!r} is no branch, tag or commit")
        return cls("/".join(parts[:2]), "/".join(parts[2:]), revision)

    def __str__(self) -> str:
        """The shortest text that parses to this place."""
        place = f"{self.repo}/{self.folder}" if self.folder else self.repo
        return f"{place}@{self.revision}" if self.revision else place


def _queried_revision(text: str, query: str) -> str:
    try:
        asked = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        asked = []
    if len(asked) != 1 or asked[0][0] != "revision":
        raise _refused(text, f"after the question mark stands {query!r}, not revision=…")
    return asked[0][1]


def _refused(text: str, reason: str) -> HubReferenceError:
    return HubReferenceError(f"{text[:200]!r} is no place on the hub: {reason}; expected {FORMS}")
