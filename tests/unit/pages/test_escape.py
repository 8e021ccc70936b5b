"""Text of a prompt, a link or a file is shown as text."""

from __future__ import annotations

import re

import pytest

from pages.shared.escape import plain

_AUTOLINK = re.compile(r"(https?://|www(?=\.))([-.\w]+)|([-.\w+]+)@([-\w]+(?:\.[-\w]+)+)", re.I)
"""How GitHub's Markdown finds addresses in text that has been unescaped."""


@pytest.mark.parametrize(
    "text",
    ["[x](https://example.org)", "HTTPS://example.org", "www.example.org", "me@example.org"],
)
def test_an_address_is_not_a_link(text: str) -> None:
    """`?model=[x](https://…)` was a live link."""
    shown = re.sub(r"\\(.)", r"\1", plain(text))
    assert not _AUTOLINK.search(shown)
    assert shown.replace("\u200b", "") == text
    assert "](" not in plain(text)
