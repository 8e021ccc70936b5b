"""One plain sentence about what an intervention did."""

from __future__ import annotations

from collections.abc import Sequence

from charts.text import percent, token_text
from tracer.types import TokenProbability


def change_sentence(
    baseline: Sequence[TokenProbability], edited: Sequence[TokenProbability]
) -> str:
    """Compare the likeliest token before with the likeliest after; both lists descend.

    ``"Austin falls from 99 % to 12 %; Phoenix is now first (61 %)."``
    """
    if not baseline or not edited:
        return "The model names no next token."
    first, now = baseline[0], edited[0]
    name = token_text(first.token)
    after = next((e.probability for e in edited if e.token_id == first.token_id), None)
    # beyond the lists' end all that is known is that it is less likely than the last one listed
    if after is None:
        to = f"below {percent(edited[-1].probability)}"
        moved = f"{name} falls from {percent(first.probability)} to {to}"
    elif percent(after) == percent(first.probability):
        moved = f"{name} stays at {percent(first.probability)}"
    else:
        verb = "falls" if after < first.probability else "rises"
        moved = f"{name} {verb} from {percent(first.probability)} to {percent(after)}"
    if now.token_id != first.token_id:
        rest = f"{token_text(now.token)} is now first ({percent(now.probability)})"
        return f"{moved}; {rest}."
    if moved.startswith(f"{name} stays"):
        return f"{moved}: the answer hardly depends on this."
    return f"{moved} and is still first."
