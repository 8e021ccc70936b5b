"""Write a chat for a model that has a chat template, and trace the prompt that it becomes."""

from __future__ import annotations

from typing import Final

import streamlit as st

from cache import ChatText
from charts.palette import palette
from charts.text import plural
from pages.shared import progress, resources, token_chips
from pages.shared.escape import plain, sentence
from pages.shared.session import update_session, visitor_id
from pages.shared.session_state import Session
from tracer.errors import TracerError

_ROLES: Final = ("system", "user", "assistant")
_COUNT: Final = "chat messages"
_MOST: Final = 20


def draw(session: Session) -> None:
    """Draw the chat; nothing for a model without a chat template."""
    questions = resources.backend().questions
    if not questions.has_chat_template(session.choice):
        return
    with st.expander("Chat", key="write a chat"):
        count = int(st.session_state.setdefault(_COUNT, 1))
        messages = [_message(number) for number in range(count)]
        with st.container(horizontal=True, gap="small"):
            st.button(
                "Add a message",
                key="chat add",
                on_click=_counted,
                args=(count + 1,),
                disabled=count >= _MOST,
            )
            st.button(
                "Remove the last",
                key="chat remove",
                on_click=_counted,
                args=(count - 1,),
                disabled=count < 2,
            )
        opens = st.toggle(
            "End where the answer begins",
            True,
            key="chat generation",
            help="Adds the template's generation prompt, so that the graph explains the first "
            "token of the model's answer.",
        )
        written = tuple((role, text) for role, text in messages if text.strip())
        if not written:
            st.caption("Write a message to see the prompt it becomes.")
            return
        job = questions.chat(session.choice, ChatText(written, opens), visitor_id())
        progress.wait_for(job, "chat", "Rendering the chat")
        try:
            rendered = job.result()
        except TracerError as error:
            st.warning(plain(sentence(error)))
            return
        st.markdown(f"**As the model reads it** :gray[{plural(len(rendered.tokens), 'token')}]")
        st.code(rendered.text, language=None, wrap_lines=True)
        theme = palette(st.context.theme.type)
        st.html(token_chips.chips(rendered.tokens, rendered.token_ids, theme))
        st.button(
            "Trace this chat",
            key="chat trace",
            type="primary",
            on_click=update_session,
            kwargs={"prompt": rendered.text},
        )


def _message(number: int) -> tuple[str, str]:
    role = st.selectbox(
        f"Role of message {number + 1}",
        _ROLES,
        index=1 if number % 2 == 0 else 2,
        key=f"chat role {number}",
        label_visibility="collapsed",
    )
    text = st.text_area(
        f"Message {number + 1}",
        key=f"chat text {number}",
        height=68,
        label_visibility="collapsed",
        placeholder="Message",
    )
    return role, text or ""


def _counted(count: int) -> None:
    st.session_state[_COUNT] = count
