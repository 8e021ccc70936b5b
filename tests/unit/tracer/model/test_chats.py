"""Chats are written by the tokenizer's template, and text that loses features is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers_of_models as stand_ins
import yaml

import tracer
from tracer.__main__ import main
from tracer.catalog.registry import listed, registry
from tracer.errors import PromptError
from tracer.model.model import Model

SPECIAL = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
USER = [{"role": "user", "content": "w1 w7 w2"}]
TEXT = "<bos><start_of_turn>user\nw1 w7 w2<end_of_turn>\n<start_of_turn>model\n"
PLAIN = "w1 w7 w2 w30 w11 w5"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chats")
    template = stand_ins.GEMMA_TEMPLATE
    return stand_ins.save(root / "model", stand_ins.gemma_words(), template, **SPECIAL)


@pytest.fixture(scope="module")
def of_chats(folder: Path) -> Path:
    """A set for the same model that says it belongs to an instruction-tuned Gemma 3."""
    chats = folder.parent / "chats"
    chats.mkdir()
    for file in (folder.parent / "set").iterdir():
        (chats / file.name).write_bytes(file.read_bytes())
    config = yaml.safe_load((chats / "config.yaml").read_text())
    config["model_name"] = "google/gemma-3-1b-it"
    (chats / "config.yaml").write_text(yaml.safe_dump(config))
    return chats


def opened(folder: Path, transcoders: Path) -> Model:
    return tracer.load(str(folder), str(transcoders), device="cpu")


def test_a_chat_is_traced_as_its_template_writes_it(folder: Path) -> None:
    model = opened(folder, folder.parent / "set")
    assert tracer.chat_prompt(model, USER) == TEXT
    assert model.token_strings(model.encode(USER)) == (
        "<bos>", "<start_of_turn>", "user", "\n", "w1", "w7", "w2", "<end_of_turn>", "\n",
        "<start_of_turn>", "model", "\n",
    )  # fmt: skip
    graph = tracer.trace(model, USER)
    assert graph.prompt == TEXT and graph.provenance["messages"] == USER
    again = tracer.trace(model, graph.prompt)
    assert again.token_ids == graph.token_ids and "messages" not in again.provenance
    assert (again.to_dense() == graph.to_dense()).all()
    edit = tracer.Intervention(0, 4, 1, 3.0)
    results = [tracer.intervene(model, prompt, [edit]) for prompt in (USER, TEXT)]
    assert results[0].prompt == TEXT and results[0].kl == results[1].kl > 0


def test_the_assistants_last_message_is_continued(folder: Path) -> None:
    model = opened(folder, folder.parent / "set")
    chat = [*USER, {"role": "assistant", "content": "w5"}]
    assert tracer.chat_prompt(model, chat) == TEXT + "w5"
    assert tracer.chat_prompt(model, chat, generation_prompt=False) == TEXT + "w5<end_of_turn>\n"
    assert tracer.chat_prompt(model, USER, generation_prompt=False) == TEXT.removesuffix(
        "<start_of_turn>model\n"
    )


def test_a_template_is_offered_and_never_assumed(folder: Path) -> None:
    model = opened(folder, folder.parent / "set")
    assert model.chat_template == stand_ins.GEMMA_TEMPLATE and not model.needs_chat
    assert len(tracer.trace(model, PLAIN).tokens) == 7


@pytest.mark.parametrize("prompt", [PLAIN, [1, 5, 6, 7, 8, 9]])
def test_text_on_a_model_of_chats_is_refused_unless_forced(
    folder: Path, of_chats: Path, prompt: Any
) -> None:
    model = opened(folder, of_chats)
    assert model.needs_chat and model.first_position == 4
    with pytest.raises(
        PromptError, match=r"trained on chats, .* first words would be .* force=True"
    ):
        tracer.trace(model, prompt)
    forced = tracer.trace(model, prompt, force=True)
    assert set(forced.features[:, 1].tolist()) <= set(range(4, len(forced.tokens)))


def test_a_chat_keeps_the_features_of_every_word(folder: Path, of_chats: Path) -> None:
    graph = tracer.trace(opened(folder, of_chats), USER)
    assert {4, 5, 6} <= set(graph.features[:, 1].tolist())


def test_a_chat_in_text_is_accepted_without_a_template(
    folder: Path, of_chats: Path, tmp_path: Path
) -> None:
    plain = stand_ins.save(tmp_path / "model", stand_ins.gemma_words(), None, **SPECIAL)
    model = opened(plain, of_chats)
    assert model.chat_template is None and model.needs_chat
    assert tracer.trace(model, TEXT).prompt == TEXT
    with pytest.raises(PromptError, match="trained on chats"):
        tracer.trace(model, PLAIN)
    with pytest.raises(PromptError, match=r"tokenizer of .* has no chat template: give the prompt"):
        tracer.trace(model, USER)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the chat has no messages"),
        ([{"role": "user"}], "message 0 of the chat is \"{'role': 'user'}\": expected {'role'"),
        ([*USER, {"role": "user", "content": 3}], "message 1 of the chat is "),
        ([*USER, "w1"], "message 1 of the chat is 'w1': expected"),
        ([{"role": "system", "content": "w1"}], "does not accept these messages: System role not"),
    ],
)
def test_a_chat_that_cannot_be_written_is_refused(
    folder: Path, messages: Any, message: str
) -> None:
    model = opened(folder, folder.parent / "set")
    with pytest.raises(PromptError, match=message):
        tracer.chat_prompt(model, messages)


def test_registered_sets_say_whether_they_need_a_chat() -> None:
    needing = {model.name for model in registry(own=False) for entry in model.sets if entry.chat}
    sizes = ("270m", "1b", "4b", "12b", "27b")
    assert needing == {f"gemma-3-{size}-it" for size in sizes}
    entry = listed("gemma-3-4b-it", "262k")
    assert entry is not None and entry[1].chat


def test_the_command_line_writes_a_chat(
    folder: Path, of_chats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--model", str(folder), "--transcoders", str(of_chats), "--device", "cpu"]
    assert main(["trace", *command, PLAIN]) == 2
    assert "or force=True (--force) to trace it as it is" in capsys.readouterr().err
    assert main(["trace", *command, "--force", "--json", PLAIN]) == 0
    assert main(["trace", *command, "--chat", "w1 w7 w2"]) == 0
    assert "user\nw1 w7 w2<end_of_turn>" in capsys.readouterr().out
    edit = ["intervene", *command, "--chat", "w1 w7 w2", "--set", "0:4:1=3"]
    assert main(edit) == 0 and "<start_of_turn>model" in capsys.readouterr().out


def test_a_user_of_an_own_list_says_that_a_set_needs_chats(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"name": "mine", "repo": str(folder.parent / "set"), "chat": True}
    models = {"models": [{"name": "mine", "repo": str(folder), "sets": [entry]}]}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(models))
    monkeypatch.setenv("CIRCUIT_MODELS", str(tmp_path / "models.yaml"))
    model = tracer.load("mine", device="cpu")
    with pytest.raises(PromptError, match="were trained on chats, and this prompt"):
        tracer.trace(model, [5, 6, 7])
    assert model.needs_chat and tracer.trace(model, USER).prompt == TEXT
