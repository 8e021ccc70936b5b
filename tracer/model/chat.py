"""Chats: a list of messages as the text that an instruction-tuned model was trained on.

The tokenizer's own chat template writes it. A template is offered, never assumed: text is traced as
it is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from tracer.errors import PromptError, one_line
from tracer.types import Message, Prompt


def is_chat(prompt: Prompt) -> TypeGuard[Sequence[Message]]:
    """Return whether a prompt is a list of messages.

    >>> is_chat([{"role": "user", "content": "Hello"}]), is_chat("Hello"), is_chat([1, 52])
    (True, False, False)
    """
    return not isinstance(prompt, str) and any(isinstance(entry, Mapping) for entry in prompt)


def template_of(tokenizer: Any) -> str | None:
    """Return the tokenizer's chat template, the default one of several; None without any."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, Mapping):
        template = template.get("default")
    return template or None


def chat_text(tokenizer: Any, name: str, messages: Sequence[Message], generation: bool) -> str:
    """Return messages as text, special tokens included; see :func:`tracer.chat_prompt`."""
    for number, message in enumerate(messages):
        valid = isinstance(message, Mapping) and message.keys() >= {"role", "content"}
        if not valid or not all(isinstance(message[key], str) for key in ("role", "content")):
            raise PromptError(
                f"message {number} of the chat is {str(message)[:80]!r}: expected "
                "{'role': 'user', 'content': 'text'}"
            )
    if not messages:
        raise PromptError("the chat has no messages: give at least one")
    if template_of(tokenizer) is None:
        raise PromptError(
            f"the tokenizer of {name} has no chat template: give the prompt as text, in the form "
            "that the model was trained on"
        )
    continues = messages[-1]["role"] == "assistant"
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=generation and not continues,
                continue_final_message=generation and continues,
            )
        )
    except Exception as error:  # a template is a program of the publisher's
        raise PromptError(
            f"the chat template of {name} does not accept these messages: {one_line(error)}"
        ) from error
