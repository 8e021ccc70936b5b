"""What a link asked for and cannot be shown: one sentence each, until the visitor closes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from cache import Annotations, scenarios_from_json
from tracer.search.match import parse_feature
from tracer.types import NodeId

LONGEST_PROMPT: Final = 20_000
_KEY: Final = re.compile(r"[0-9a-f]{32}")


def usable_prompt(query: Mapping[str, str]) -> str:
    """Return the prompt of a link; empty where it has none, or one that is too long."""
    prompt = query.get("prompt", "")
    return prompt if len(prompt) <= LONGEST_PROMPT else ""


def link_problems(query: Mapping[str, str]) -> tuple[str, ...]:
    """Return what is wrong with the parameters of a link.

    >>> link_problems({"node": "feature-1-2-3", "feature": "Texas"})
    ('the link names a feature in a form that cannot be read: expected L3/417',)
    """
    problems = []
    length = len(query.get("prompt", ""))
    if length > LONGEST_PROMPT:
        problems.append(
            f"the prompt in this link has {length:,} characters, at most {LONGEST_PROMPT:,} can be "
            "read: the first prompt of the gallery is shown instead"
        )
    if query.get("graph") and not _KEY.fullmatch(query["graph"]):
        problems.append("the link names a stored graph in a form that cannot be read")
    if query.get("node"):
        try:
            NodeId.parse(query["node"])
        except ValueError:
            problems.append("the link names a node in a form that cannot be read")
    if query.get("feature") and parse_feature(query["feature"][:40]) is None:
        problems.append("the link names a feature in a form that cannot be read: expected L3/417")
    for name, what, read in (
        ("scenarios", "the scenarios", scenarios_from_json),
        ("marks", "the pins and supernodes", Annotations.from_json),
    ):
        try:
            if query.get(name):
                read(query[name])
        except (ValueError, RecursionError):
            problems.append(
                f"{what} in this link cannot be read, it may have been cut off: the rest of the "
                "link is shown"
            )
    return tuple(problems)
