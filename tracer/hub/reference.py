"""References to the hub as text: ``org/name``, ``org/name/folder@revision``, ``hf://…``.

Only the text is parsed here; nothing checks whether the repository exists.
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
    """A repository on the hub, or a folder or file in it, perhaps at a revision."""

    repo: str
    """``org/name``"""
    folder: str = ""
    """Path of a folder or file in the repository; empty for the root."""
    revision: str | None = None
    """Branch, tag or commit; None for the main branch."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the reference written as ``text``; raises :class:`HubReferenceError`.

        >>> Reference.parse("mntss/clt-gemma-2-2b-426k/features@main")
        Reference(repo='mntss/clt-gemma-2-2b-426k', folder='features', revision='main')
        >>> str(Reference.parse("hf://org/name/layer_0.npz?revision=v1"))
        'org/name/layer_0.npz@v1'
        """
        rest, revision = text.strip(), None
        if rest.startswith("hf://"):
            rest, mark, query = rest.removeprefix("hf://").partition("?")
            if mark:
                revision = _queried_revision(text, query)
        rest, mark, after = rest.partition("@")
        if mark and revision is not None:
            raise _refused(text, "it has two revisions")
        revision = after if mark else revision
        parts = rest.removesuffix("/").split("/")
        if len(parts) < 2:
            raise _refused(text, "a repository needs an owner and a name")
        for name in parts[:2]:
            if not _NAME.fullmatch(name) or ".." in name or "--" in name or name[-1] in ".-":
                raise _refused(text, f"{name!r} cannot be an owner or a repository")
        for part in parts[2:]:
            if not _PART.fullmatch(part) or part in (".", ".."):
                raise _refused(text, f"{part!r} cannot be a folder or a file")
        if revision is not None and (
            not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision
        ):
            raise _refused(text, f"{revision!r} cannot be a branch, tag or commit")
        return cls("/".join(parts[:2]), "/".join(parts[2:]), revision)

    def __str__(self) -> str:
        """Return the shortest text that parses to this reference."""
        path = f"{self.repo}/{self.folder}" if self.folder else self.repo
        return f"{path}@{self.revision}" if self.revision else path


def _queried_revision(text: str, query: str) -> str:
    try:
        fields = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        fields = []
    if len(fields) != 1 or fields[0][0] != "revision":
        raise _refused(text, f"after the question mark is {query!r} instead of revision=…")
    return fields[0][1]


def _refused(text: str, reason: str) -> HubReferenceError:
    return HubReferenceError(f"{text[:200]!r} is not a hub reference: {reason}; expected {FORMS}")
