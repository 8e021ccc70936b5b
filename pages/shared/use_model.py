"""Switch the session to another model."""

from __future__ import annotations

from dataclasses import replace

from cache import ModelChoice
from pages.shared.session import read_session, update_session
from tracer.catalog.embedded import embedded, gallery


def use_model(choice: ModelChoice, prompt: str | None = None) -> None:
    """Use another model, on ``prompt`` or the session's own.

    A prompt of the gallery of one embedded model gives way to the first prompt of the other's: it
    was written for that model alone.
    """
    session = read_session()
    if prompt is None:
        prompt = session.prompt
        prompts = [entry.prompt for entry in gallery(choice.model)]
        own = {entry.prompt for entry in gallery(session.choice.model)}
        if embedded(choice.model) is not None and prompt in own and prompt not in prompts:
            prompt = prompts[0]
    update_session(choice=choice, prompt=prompt, compared=replace(session.compared, transcoders=""))
