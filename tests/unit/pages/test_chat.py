"""Chats become the prompt that the model's template makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from cache import ChatText, Job, ModelChoice
from cache.questions import Questions
from tracer.errors import PromptError

ROOT = Path(__file__).resolve().parents[3]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def model() -> Any:
    """A model with a real tokenizer and its chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "hi": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    fast.chat_template = TEMPLATE
    return SimpleNamespace(
        source=SimpleNamespace(name="chatty"),
        bridge=SimpleNamespace(tokenizer=fast),
        encode=lambda text: tuple(range(len(text.split("<")))),
        token_strings=lambda ids: tuple(f"t{i}" for i in ids),
    )


def quiet(done: int, total: int, what: str) -> None:
    return


@pytest.mark.parametrize("opens", [True, False])
def test_a_chat_is_rendered_with_the_template(opens: bool) -> None:
    rendered = ChatText((("user", "hi\nyou"), ("assistant", "ok")), opens).answer(model(), quiet)
    expected = "<user>hi\nyou\n<assistant>ok" + ("" if opens else "\n")  # the answer goes on
    assert rendered.text == expected and len(rendered.tokens) == len(rendered.token_ids)


def test_a_template_that_refuses_is_one_sentence() -> None:
    with pytest.raises(PromptError, match=r"template of chatty .*: no system"):
        ChatText((("system", "be brief"),)).answer(model(), quiet)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    monkeypatch.setenv("CIRCUIT_STORE", str(tmp_path / "store"))
    st.cache_resource.clear()

    def answer(questions: Questions, choice: ModelChoice, chat: ChatText, session: str) -> Job:
        try:
            return Job.found("chat", chat.answer(model(), quiet))
        except PromptError as error:
            return Job.refused("chat", error)

    monkeypatch.setattr(Questions, "has_chat_template", lambda questions, choice: True)
    monkeypatch.setattr(Questions, "chat", answer)
    yield AppTest.from_string(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pages.shared import chat_panel\n"
        "from pages.shared.session import read_session\nchat_panel.draw(read_session())",
        default_timeout=60,
    ).run()
    st.cache_resource.clear()


def test_a_chat_is_written_previewed_and_traced(app: AppTest) -> None:
    assert not app.exception
    app.text_area(key="chat text 0").set_value("hi").run()
    assert app.code[0].value == "<user>hi\n<assistant>"
    app.button(key="chat add").click().run()
    app.text_area(key="chat text 1").set_value("ok").run()
    app.toggle(key="chat generation").set_value(False).run()
    assert app.code[0].value.rstrip() == "<user>hi\n<assistant>ok"
    app.selectbox(key="chat role 0").set_value("system").run()
    assert not app.code and "no system" in app.warning[0].value
    app.selectbox(key="chat role 0").set_value("user").run()
    app.button(key="chat trace").click().run()
    assert not app.exception
    assert app.session_state["session"].prompt == "<user>hi\n<assistant>ok\n"


def test_atlas_has_no_chat_template(tmp_path: Path) -> None:
    from cache import open_backend

    backend = open_backend(tmp_path / "store")
    assert not backend.questions.has_chat_template(ModelChoice())
    assert not backend.questions.has_chat_template(ModelChoice("/nowhere", "/nowhere"))
    backend.close(10)
