"""Many prompts of a file are traced into the store; a failure loses nothing that is done."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet
import pytest
from fakes import FakeEngine, FakeModel

from cache import Backend, ModelChoice
from cache.__main__ import main
from cache.many import bad_row, trace_many, write_summary
from cache.prompt_file import BadLine, Prompt, parse_prompts, read_prompts
from tracer.errors import PromptError, TracerError

CHOICE = ModelChoice("fake", "set")


def prompts(count: int) -> list[Prompt]:
    return [Prompt(number + 2, f"prompt {number}") for number in range(count)]


def test_every_prompt_is_in_the_store(backend: Backend) -> None:
    rows = list(trace_many(backend, prompts(100), CHOICE))
    assert [row.line for row in rows] == list(range(2, 102))
    assert {row.key for row in rows} == {entry.key for entry in backend.stored()}
    assert all(row.state == "done" and row.n_edges == 7 for row in rows)


def test_a_run_goes_on_where_it_stopped(
    open_again: Callable[[], Backend], engine: FakeEngine
) -> None:
    first = open_again()
    run = trace_many(first, prompts(5), CHOICE)
    done = [next(run), next(run)]
    run.close()
    first.close(10)
    engine.traced.clear()
    rows = list(trace_many(open_again(), prompts(5), CHOICE))
    assert [row.key for row in rows[:2]] == [row.key for row in done]
    assert all(row.from_store for row in rows[:2]) and "prompt 0" not in engine.traced


def test_a_prompt_that_fails_leaves_the_others(backend: Backend, engine: FakeEngine) -> None:
    def fail(prompt: str, batch: int) -> None:
        if prompt == "prompt 1":
            raise TracerError("too difficult")

    engine.on_batch = fail
    rows = list(trace_many(backend, prompts(3), CHOICE))
    assert [row.state for row in rows] == ["done", "failed", "done"]
    assert rows[1].error == "too difficult" and len(backend.stored()) == 2


def test_csv_and_jsonl_say_the_same() -> None:
    text = 'prompt,label,target\n"a, b",first, x\nc d,,\n'
    lines = [{"prompt": "a, b", "label": "first", "target": " x"}, {"prompt": "c d"}]
    table, bad = parse_prompts(text, is_json=False)
    from_json, bad_json = parse_prompts("\n".join(map(json.dumps, lines)), is_json=True)
    assert bad == bad_json == []
    assert [(p.prompt, p.label, p.target) for p in table] == [
        (p.prompt, p.label, p.target) for p in from_json
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("9" * 5000, "it is not JSON"),
        ("[1]", "expected an object"),
        ('{"prompt": 3}', "its prompt is 3, expected text"),
        ('{"label": "x"}', "it has no prompt"),
        ('{"messages": [1]}', "its message 1 is not an object"),
        ('{"messages": {"role": "user"}}', "'content'"),
        ('{"messages": "[{"}', "its messages are not JSON"),
        ('{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}', "both a prompt and"),
    ],
)
def test_one_bad_line_is_reported_and_skipped(line: str, reason: str) -> None:
    good, bad = parse_prompts(f'{{"prompt": "a"}}\n{line}\n{{"prompt": "b"}}', is_json=True)
    assert [prompt.prompt for prompt in good] == ["a", "b"]
    assert [entry.number for entry in bad] == [2] and reason in bad[0].reason
    assert len(bad[0].reason) < 400


CHAT = [{"role": "user", "content": "The capital of Texas?"}]


def test_chats_are_read_from_both_kinds_of_files(tmp_path: Path) -> None:
    with (tmp_path / "p.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["label", "messages"])
        writer.writeheader()
        writer.writerow({"label": "x", "messages": json.dumps(CHAT)})
    (tmp_path / "p.jsonl").write_text(json.dumps({"label": "x", "messages": CHAT}))
    for name in ("p.csv", "p.jsonl"):
        ((prompt,), bad) = read_prompts(tmp_path / name)
        assert prompt.messages == (("user", "The capital of Texas?"),) and prompt.prompt == ""
        assert not bad and prompt.label == "x"


def test_a_chat_is_traced_as_the_template_writes_it(
    backend: Backend, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = SimpleNamespace(chat_template="x", apply_chat_template=written)
    monkeypatch.setattr(FakeModel, "bridge", SimpleNamespace(tokenizer=tokenizer), raising=False)
    monkeypatch.setattr(FakeModel, "token_strings", lambda model, ids: (), raising=False)
    chats = [Prompt(1, "", messages=(("user", "Texas?"),)), Prompt(2, "plain")]
    refused = Prompt(3, "", messages=(("system", "be brief"),))
    rows = list(trace_many(backend, [*chats, refused], CHOICE))
    assert [row.prompt for row in rows[:2]] == ["<user>Texas? <model>", "plain"]
    assert sorted(engine.traced) == ["<user>Texas? <model>", "plain"]
    assert rows[2].state == "failed" and "no system prompt" in rows[2].error


def written(messages: list[dict[str, str]], **options: object) -> str:
    """Write a chat as a tokenizer's template would."""
    if messages[0]["role"] == "system":
        raise ValueError("no system prompt")
    return "".join(f"<{m['role']}>{m['content']} " for m in messages) + "<model>"


def test_a_line_with_too_many_columns_is_skipped() -> None:
    good, bad = parse_prompts("prompt\na,b\nc\n", is_json=False)
    assert [prompt.prompt for prompt in good] == ["c"]
    assert bad == [BadLine(2, "it has more columns than the header")]


@pytest.mark.parametrize("content", [b"", b"label\nx\n", b"\xff\xfe\x00"])
def test_a_file_without_prompts_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(content)
    with pytest.raises(PromptError):
        read_prompts(path)
    with pytest.raises(PromptError, match="cannot be read"):
        read_prompts(tmp_path / "missing.csv")


def test_the_summary_is_a_table(backend: Backend, tmp_path: Path) -> None:
    rows = [*trace_many(backend, prompts(2), CHOICE), bad_row(BadLine(9, "it has no prompt"))]
    write_summary(tmp_path / "a.csv", rows)
    write_summary(tmp_path / "a.parquet", rows)
    with (tmp_path / "a.csv").open() as file:
        table = list(csv.DictReader(file))
    stored = pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["prompt"] for row in table] == [row["prompt"] for row in stored]
    assert stored[2]["error"] == "it has no prompt" and stored[0]["key"] == rows[0].key


def test_the_command_traces_a_file_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, summary = tmp_path / "prompts.csv", tmp_path / "summary.parquet"
    file.write_text("prompt,target\nThe opposite of hot is,\n,\nThe opposite of hot is, nonsense\n")
    command = ["--store", str(tmp_path / "store"), "trace", str(file), "--device", "cpu", "--json"]
    for known in (False, True):
        assert main([*command, "--summary", str(summary)]) == 1
        output = capsys.readouterr()
        assert "line 3 is skipped: it has no prompt" in output.err
        first, second = map(json.loads, output.out.splitlines())
        assert first["state"] == "done" and first["next_token"] == " cold"
        assert first["from_store"] is known
        assert second["state"] == "failed" and "nonsense" in second["error"]
        assert len(pyarrow.parquet.read_table(summary)) == 3


def test_the_library_hands_a_file_to_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    import tracer.__main__

    commands: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    arguments = ["trace", "--prompts", "a.csv", "--max-features", "5", "--summary", "b.csv"]
    assert tracer.__main__.main(arguments) == 0
    (command,) = commands
    assert command[1:4] == ["-m", "cache", "trace"] and command[4] == str(Path("a.csv").resolve())
    assert command[command.index("--max-features") + 1] == "5"
    assert command[command.index("--summary") + 1] == str(Path("b.csv").resolve())
    assert tracer.__main__.main(["trace", "--prompts", "a.csv", "a prompt"]) == 2
    assert tracer.__main__.main(["trace"]) == 2
    assert len(commands) == 1
