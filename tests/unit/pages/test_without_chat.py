"""Plain text on transcoders of chats: the page refuses it in words, and traces it on request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
import tokenizers_of_models as stand_ins
import yaml
from streamlit.testing.v1 import AppTest

from cache import ModelChoice, TraceRequest
from pages.shared import resources
from tracer.errors import ChatNeededError

MAIN = Path(__file__).resolve().parents[3] / "pages" / "shell" / "main.py"
PLAIN = "w1 w7 w2 w30 w11 w5"


@pytest.fixture
def choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelChoice]:
    """A tiny model with Gemma's chat template, and a set that was trained on chats."""
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    words = stand_ins.gemma_words()
    folder = stand_ins.save(tmp_path / "model", words, stand_ins.GEMMA_TEMPLATE, **special)
    config = tmp_path / "set" / "config.yaml"
    stored = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(stored | {"model_name": "google/gemma-3-1b-it"}))
    monkeypatch.setenv("CIRCUIT_STORE", str(tmp_path / "store"))
    st.cache_resource.clear()
    yield ModelChoice(str(folder), str(tmp_path / "set"))
    resources.backend().close(10)
    st.cache_resource.clear()


def test_plain_text_is_refused_in_words_and_traced_on_request(choice: ModelChoice) -> None:
    app = AppTest.from_file(str(MAIN), default_timeout=60)
    for name, value in (("model", choice.model), ("transcoders", choice.transcoders)):
        app.query_params[name] = value
    app.query_params["prompt"] = PLAIN
    resources.backend().trace(TraceRequest(PLAIN, choice)).wait(60)
    app.run()
    assert not app.exception
    (error,) = app.error
    text = re.sub(r"\\(.)", r"\1", error.value)
    assert text.endswith(
        "were trained on chats, and this prompt does not begin one: features of its first words "
        "would be lost. Write it as a chat under Options, or trace it as it is."
    )
    assert "--force" not in text and not any("graph tools" in str(b.key) for b in app.button)
    resources.backend().trace(TraceRequest(PLAIN, choice, force=True)).wait(60)
    app.button(key="trace without chat").click().run()
    assert not app.exception and not app.error
    assert app.query_params["force"] in ("1", ["1"])
    assert any("nodes shown" in caption.value for caption in app.caption)
    box = next(box for box in (*app.text_input, *app.text_area) if box.key == "prompt box")
    box.set_value("w1 w7").run()
    assert any("trained on chats" in error.value for error in app.error)


def test_only_a_forced_request_gets_the_forced_graph(choice: ModelChoice) -> None:
    backend = resources.backend()
    forced = backend.trace(TraceRequest(PLAIN, choice, force=True)).result(60)
    assert sorted(set(forced.features[:, 1].tolist())) == [4, 5, 6]
    with pytest.raises(ChatNeededError, match="were trained on chats"):
        backend.trace(TraceRequest(PLAIN, choice)).result(60)
