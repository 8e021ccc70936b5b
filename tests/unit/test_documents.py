"""What the documents say is what the library does: sentences, options, calls, layouts, notebook."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tokenizers_of_models as stand_ins
import yaml
from published_graphs import published, read
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

import tracer
from tracer.__main__ import main
from tracer.errors import TracerError
from tracer.features.from_address import AddressFeatures
from tracer.interchange.convert import graph_from_external
from tracer.interchange.graph_json import read_graph_json
from tracer.interchange.links import read_link
from tracer.interchange.safe_unpickle import unpack
from tracer.model.model import Model
from tracer.transcoders.load import load_transcoders
from tracer.types import FeatureId

DOCS = Path(__file__).parents[2] / "docs"


def table(name: str, number: int = 0) -> list[list[str]]:
    """Return the cells of a table in a document, without its head."""
    text = (DOCS / name).read_text(encoding="utf-8")
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)[number]
    rows = [re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in found.splitlines()]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def opened_set(folder: Path, **config: Any) -> None:
    path = tiny.save_transcoders(folder) / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | config))
    load_transcoders(folder, 3, 32)


def rewritten_set(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = tiny.save_transcoders(folder) / "layer_1.safetensors"
    save_file(change(load_file(path)), path)
    load_transcoders(folder, 3, 32)


def foreign_set(
    folder: Path, file: str, settings: dict[str, Any], name: str = "layers.0.mlp"
) -> None:
    tiny.save_transcoders(folder)
    (folder / "config.yaml").unlink()
    inside = folder / name
    inside.mkdir()
    (folder / "layer_0.safetensors").rename(inside / file)
    (inside / "cfg.json").write_text(json.dumps(settings))
    load_transcoders(folder, 3, 32)


def graph_with(change: Callable[[dict[str, Any]], Any]) -> None:
    stored = published()
    change(stored)
    graph_from_external(read(stored))


def linked(source: str, target: str) -> Callable[[dict[str, Any]], Any]:
    link = {"source": source, "target": target, "weight": 1.0}
    return lambda stored: stored["links"].append(link)


def on_chats(folder: Path) -> None:
    model = stand_ins.save(folder / "model", stand_ins.words(), None, bos_token="<bos>")
    config = folder / "set" / "config.yaml"
    settings = yaml.safe_load(config.read_text()) | {"model_name": "google/gemma-3-1b-it"}
    config.write_text(yaml.safe_dump(settings))
    tracer.trace(tracer.load(str(model), str(folder / "set"), device="cpu"), "w1 w2")


def refused_by_template(folder: Path) -> None:
    words, template = stand_ins.gemma_words(), stand_ins.GEMMA_TEMPLATE
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    stand_ins.save(folder / "model", words, template, **special)
    model = tracer.load(str(folder / "model"), str(folder / "set"), device="cpu")
    tracer.chat_prompt(model, [{"role": "system", "content": "w1"}])


def foreign_tokenizer(folder: Path) -> None:
    """A model with fewer tokens than its tokenizer has."""
    words = Tokenizer(models.WordLevel({"<unk>": 0, "w1": 1, "w2": 99}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    model = stand_ins.save(folder / "model", words, None)
    tracer.trace(tracer.load(str(model), str(folder / "set"), device="cpu"), "w1 w2")


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    tracer.load(str(folder), str(tiny.save_transcoders(folder / "set")))


def run(*arguments: str) -> None:
    """Run the command line, and raise what it says."""
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        assert main(list(arguments)) == 2
    raise TracerError(errors.getvalue().removeprefix("error: ").strip())


class Code:
    """Unpickles by calling a function."""

    def __reduce__(self) -> Any:
        return print, ("code",)


def pt_of_code() -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save({"cfg": Code()}, buffer)
    return buffer.getvalue()


NEUTRAL = {
    "architecture": "transcoder",
    "hook_name": "blocks.0.mlp.hook_in",
    "hook_name_out": "blocks.0.mlp.hook_out",
}
NORMALISED = NEUTRAL | {"normalize_activations": "layer_norm"}
SPARSIFY = {"transcode": True, "activation": "topk", "k": 3}


def in_a_circle(stored: dict[str, Any]) -> None:
    linked("1_9_2", "lorsa")(stored)
    linked("lorsa", "1_9_2")(stored)


REFUSED: dict[str, Callable[[Model, Path], Any]] = {
    "text on transcoders of chats": lambda model, folder: on_chats(folder),
    "a chat without a template": lambda model, folder: tracer.trace(
        model, [{"role": "user", "content": "w1"}]
    ),
    "a message without content": lambda model, folder: tracer.trace(model, [{"role": "user"}]),
    "a chat without messages": lambda model, folder: tracer.chat_prompt(model, []),
    "a chat that the template refuses": lambda model, folder: refused_by_template(folder),
    "an empty prompt": lambda model, folder: tracer.trace(model, " "),
    "a prompt that is not UTF-8": lambda model, folder: tracer.trace(model, "w1 \ud800"),
    "words without a token": lambda model, folder: tracer.trace(model, "w1 Zürich"),
    "a tokenizer of another model": lambda model, folder: foreign_tokenizer(folder),
    "token ids outside the vocabulary": lambda model, folder: tracer.trace(model, [1, 60]),
    "a prompt that is too long": lambda model, folder: tracer.trace(model, "w1 " * 99),
    "a target of several tokens": lambda model, folder: tracer.trace(model, "w1 w2", ["w1 w2"]),
    "a LoRA folder": lambda model, folder: adapter(folder),
    "a sparse autoencoder": lambda model, folder: foreign_set(
        folder / "set", "sae.safetensors", {"transcode": False}
    ),
    "a transcoder of something else than an MLP": lambda model, folder: foreign_set(
        folder / "set", "sae.safetensors", SPARSIFY, "layers.0.self_attn"
    ),
    "a set without a transcoder for every layer": lambda model, folder: foreign_set(
        folder / "set", "sae.safetensors", SPARSIFY, "layers.2.mlp"
    ),
    "an activation of sparsify that is not TopK": lambda model, folder: foreign_set(
        folder / "set", "sae.safetensors", SPARSIFY | {"activation": "groupmax"}
    ),
    "a set with an unknown key": lambda model, folder: opened_set(folder / "set", gain=2),
    "a config of another set": lambda model, folder: opened_set(folder / "set", d_model=64),
    "two activations in one config": lambda model, folder: opened_set(
        folder / "set", activation="relu", activation_function="jumprelu"
    ),
    "tensors of another model": lambda model, folder: rewritten_set(
        folder / "set", lambda tensors: tensors | {"b_dec": tensors["b_dec"][:16].clone()}
    ),
    "tensors in no known layout": lambda model, folder: rewritten_set(
        folder / "set", lambda tensors: tensors | {"gate": tensors["b_dec"].clone()}
    ),
    "a transcoder that normalises": lambda model, folder: foreign_set(
        folder / "set", "sae_weights.safetensors", NORMALISED
    ),
    "a SAELens transcoder that reads elsewhere": lambda model, folder: foreign_set(
        folder / "set", "sae_weights.safetensors", NEUTRAL | {"hook_name": "blocks.0.attn.hook_z"}
    ),
    "a SAELens transcoder from one layer to another": lambda model, folder: foreign_set(
        folder / "set", "sae_weights.safetensors", NEUTRAL | {"hook_name": "blocks.1.mlp.hook_in"}
    ),
    "a graph file that is not JSON": lambda model, folder: read_graph_json(b"{"),
    "a compressed graph file": lambda model, folder: read_graph_json(b"\x1f\x8b"),
    "a graph without an answer": lambda model, folder: graph_with(
        lambda stored: stored.update(nodes=stored["nodes"][:-2], links=[])
    ),
    "a graph with two equal ids": lambda model, folder: graph_with(
        lambda stored: stored["nodes"].append(stored["nodes"][0])
    ),
    "a graph with two nodes at one place": lambda model, folder: graph_with(
        lambda stored: stored["nodes"].append(stored["nodes"][0] | {"node_id": "other"})
    ),
    "a kind of node with an absurd name": lambda model, folder: graph_with(
        lambda stored: stored["nodes"][0].update(feature_type="x" * 101)
    ),
    "a link without a finite weight": lambda model, folder: graph_with(
        lambda stored: stored["links"][0].update(weight="strong")
    ),
    "pins that are no list of ids": lambda model, folder: graph_with(
        lambda stored: stored["qParams"].update(pinnedIds={"a": 1})
    ),
    "supernodes in another form": lambda model, folder: graph_with(
        lambda stored: stored["qParams"].update(supernodes=[3])
    ),
    "labels in another form": lambda model, folder: read_link("https://a.org/?slug=x&clerps=[3]"),
    "a link downward, or into an error": lambda model, folder: graph_with(linked("1_9_2", "0_7_1")),
    "links in a circle": lambda model, folder: graph_with(in_a_circle),
    "a .pt that names code": lambda model, folder: unpack(pt_of_code()),
    "a bare pickle": lambda model, folder: unpack(b"\x80\x02}."),
    "an address that is not a graph's": lambda model, folder: read_link("https://a.org/x"),
    "a link that is too long": lambda model, folder: read_link("x" * 200_001),
    "a link with too many marks": lambda model, folder: read_link(
        "https://a.org/?slug=x&pinnedIds=" + ",".join(["a"] * 10_001)
    ),
    "feature files in a private network": lambda model, folder: AddressFeatures(
        "http://127.0.0.1/x", "plain", folder
    ).card(FeatureId(0, 1)),
    "an option of circuit-tracer without a counterpart": lambda model, folder: run(
        "attribute", "--server"
    ),
    "a graph saved as .pt or .json": lambda model, folder: run("trace", "x", "--save", "a.pt"),
}
"""How to provoke each sentence of the table in `docs/refused.md`."""


def test_every_row_of_the_table_is_provoked() -> None:
    assert [row[0] for row in table("refused.md")] == list(REFUSED)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    root = tmp_path_factory.mktemp("refused")
    folder, transcoders = tiny.save_model(root / "model"), tiny.save_transcoders(root / "set")
    return tracer.load(str(folder), str(transcoders), device="cpu")


@pytest.mark.parametrize(("given", "sentence"), table("refused.md"))
def test_each_sentence_of_the_table_is_produced(
    given: str, sentence: str, model: Model, tmp_path: Path
) -> None:
    with pytest.raises(TracerError) as caught:
        REFUSED[given](model, tmp_path)
    pattern = ".*".join(re.escape(part) for part in sentence.split("…"))
    assert re.fullmatch(pattern, str(caught.value)), str(caught.value)


def test_the_example_of_an_own_set_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "bring-your-own.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["graph"].next_tokens[0].token == " Austin" and len(names["graph"].features) == 50


def test_the_document_lists_every_tensor_and_key_that_is_read() -> None:
    from tracer.transcoders import config, layouts

    text = (DOCS / "bring-your-own.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w.{}]+)`", text))
    groups = (layouts._PER_LAYER, layouts._GEMMA_SCOPE, layouts._GEMMA_SCOPE_2, layouts._SPARSIFY)
    tensors = {name for names in groups for name in names.values()}
    assert tensors | {f"{name}_{{i}}" for name in ("W_enc", "W_dec", "b_enc", "b_dec")} <= named
    assert {*config._KNOWN, *config._ACTIVATIONS} - {"jump_relu"} <= named


def test_every_option_of_circuit_tracer_in_the_document_is_understood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tracer.cli.habits import translated

    rows = table("coming-from-circuit-tracer.md")
    ours = {"--" + name for row in rows for name in re.findall(r"--([\w-]+)", row[1])}
    for row in rows:
        for name in re.findall(r"`(--?[\w-]+)", row[0]):
            try:
                options = translated(["attribute", name, "1"])
            except TracerError:
                assert name in ("--slug", "--graph_file_dir", "--server")
                continue
            assert all(option in ours for option in options if option.startswith("--")), options


def test_every_call_in_the_comparison_exists() -> None:
    rows = table("coming-from-circuit-tracer.md", 1)
    assert len(rows) > 12
    for row in rows:
        for name, arguments in re.findall(r"tracer\.(\w+)\(((?:[^()]|\([^()]*\))*)\)", row[1]):
            call = getattr(tracer, name)
            for keyword in re.findall(r"(\w+)=", arguments):
                assert keyword in inspect.signature(call).parameters, (name, keyword)


def cells(kind: str) -> list[dict[str, Any]]:
    notebook = json.loads((DOCS / "colab.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


ATLAS = 'MODEL, TRANSCODERS, DTYPE = "atlas", "per-layer", "float32"'


def test_the_notebook_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On atlas in place of Gemma; what installs is left out, and what serves is only recorded."""
    monkeypatch.chdir(tmp_path)
    started: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(command))
    shown: list[Any] = []
    names: dict[str, Any] = {"display": shown.append}
    tags: list[str] = []
    for cell in cells("code"):
        tags += cell["metadata"].get("tags", [])
        source = "".join(cell["source"])
        if "install" in cell["metadata"].get("tags", []):
            continue
        if "parameters" in cell["metadata"].get("tags", []):
            assert "gemma-2-2b" in source and "bfloat16" in source
            source = ATLAS
        exec(source, names)
    assert tags == ["install", "parameters", "dashboard"]
    assert names["graph"].next_tokens[0].token == " Austin"
    assert names["result"].kl > 0 and len(shown) == 1 and len(shown[0].data) > 3
    (command,) = started
    assert command[:4] == [sys.executable, "-m", "tracer", "app"]


def run_install(folder: Path, repository: str, patch: pytest.MonkeyPatch) -> list[list[str]]:
    """Run the cell that installs, started in ``folder``; return the commands it would run."""
    (cell,) = (c for c in cells("code") if "install" in c["metadata"].get("tags", []))
    source = "".join(cell["source"]).replace('REPOSITORY = ""', f"REPOSITORY = {repository!r}", 1)
    commands: list[list[str]] = []

    def ran(command: list[str], check: bool) -> None:
        assert check
        commands.append(command)

    patch.chdir(folder)
    patch.setattr(subprocess, "run", ran)
    patch.setattr(sys, "path", list(sys.path))
    exec(source, {})
    return commands


def test_the_notebook_installs_from_the_folder_it_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, *install),) = run_install(DOCS, "", monkeypatch)
    assert install == ["-m", "pip", "install", "-q", "-r", str(DOCS.parent / "requirements.txt")]
    assert Path.cwd() == DOCS.parent and sys.path[0] == str(DOCS.parent)


def test_the_notebook_asks_for_the_address_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="set REPOSITORY at the top of this cell to the address"):
        run_install(tmp_path, "", monkeypatch)
    (tmp_path / "circuit-tracing").mkdir()
    clone, install = run_install(tmp_path, "https://example.org/x", monkeypatch)
    target = str(tmp_path / "circuit-tracing")
    assert clone == ["git", "clone", "--depth", "1", "https://example.org/x", target]
    assert install[-1] == str(tmp_path / "circuit-tracing" / "requirements.txt")


def test_the_chosen_model_fits_a_t4() -> None:
    """The estimate that the notebook prints, for a card of 16 GB."""
    from tracer.catalog.registry import listed, memory

    (source,) = (
        c["source"] for c in cells("code") if "parameters" in c["metadata"].get("tags", [])
    )
    names: dict[str, Any] = {}
    exec("".join(source), names)
    entry = listed(names["MODEL"], names["TRANSCODERS"])
    assert entry is not None
    need = memory(*entry, names["DTYPE"])
    assert need.decoders_stay and need.least is not None and need.least < 0.7 * 15e9


def test_charts_need_no_streamlit() -> None:
    code = "import sys, charts.graph_figure, charts.graph_view; print('streamlit' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
