"""Build the embedded model of English from the books: tokenizer, model, sets, feature indexes.

Every stage appears in its folder when it is complete, with a stamp of everything that determines
it. A stage whose stamp matches is skipped, and a stage that was interrupted resumes from its
checkpoint in ``<folder>.work``, which is deleted at the end.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from tracer.catalog.embedded import EMBEDDED_SETS, NOVELS, gallery
from tracer.indexing import LabelRule, build_index
from tracer.indexing.build import VERSION as INDEX_VERSION
from tracer.model.model import Model, load
from tracer.novels import language_model
from tracer.novels.books import Book, read_books
from tracer.novels.language_model import LanguageModelConfig
from tracer.novels.token_rows import CONTEXT, write_rows
from tracer.novels.tokenizer import N_TOKENS, train_tokenizer
from tracer.paths import NOVELS_WEIGHTS
from tracer.training import train_transcoders
from tracer.training.recipe import Kind
from tracer.training.train import VERSION as TRAINING_VERSION
from tracer.types import Progress

Report = Callable[[str], None]
STAMP: Final = "stamp.json"
SCANS: Final[Mapping[str, str]] = {"per-layer": "novels-plt", "cross-layer": "novels-clt"}
_REPORT: Final = "report.json"


@dataclass(frozen=True)
class SetRecipe:
    """The options of :func:`train_transcoders` for one set."""

    kind: Kind
    features: int
    """Of each layer."""
    tokens: int
    l0: float = 56.0
    """Active features per token over all layers; at most 60 are wanted on held-out text."""
    batch_tokens: int = 2048
    finetune_share: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class IndexRecipe:
    """The options of :func:`build_index`."""

    limit_tokens: int = 800_000
    examples: int = 3
    """Fewer and shorter than the default: the index is part of every copy of the project."""
    around: int = 9
    label: LabelRule = field(default_factory=LabelRule)


@dataclass(frozen=True)
class BuildConfig:
    """Everything that determines the result, apart from the books."""

    n_tokens: int = N_TOKENS
    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    sets: Mapping[str, SetRecipe] = field(
        default_factory=lambda: {
            "per-layer": SetRecipe("per-layer", features=1536, tokens=4_000_000),
            "cross-layer": SetRecipe("cross-layer", features=1024, tokens=2_000_000),
        }
    )
    index: IndexRecipe = field(default_factory=IndexRecipe)
    context: int = CONTEXT
    """Tokens in a row of the corpus that sets and indexes are made from."""


def build(
    corpus: Path,
    folder: Path = NOVELS_WEIGHTS,
    report: Report = lambda line: None,
    threads: int = 2,
    config: BuildConfig | None = None,
) -> None:
    """Build whatever is missing in ``folder`` from the file of books.

    Raises :class:`tracer.errors.CorpusError` for a file that cannot be used, and the errors of
    :func:`train_transcoders` and :func:`build_index`.
    """
    torch.set_num_threads(threads)
    config = config or BuildConfig()
    books = read_books(corpus)
    stage = _Stages(folder, books, config, report)
    stage.model()
    for name in EMBEDDED_SETS:
        stage.transcoders(name)
        stage.index(name)
    shutil.rmtree(stage.work, ignore_errors=True)
    for line in check_gallery(open_built(folder, EMBEDDED_SETS[0])):
        report(f"gallery: {line}")


def open_built(folder: Path, transcoders: str) -> Model:
    """Open a set of the model in ``folder``, which need not be the installed one."""
    return load(str(folder / "model"), str(folder / transcoders), device="cpu")


def stamps(books: Sequence[Book], config: BuildConfig) -> dict[str, dict[str, Any]]:
    """Return what determines each stage, by the folder of its result."""
    text = hashlib.sha256(repr(books).encode()).hexdigest()
    model = {"books": text, "tokens": config.n_tokens, **asdict(config.model)}
    result: dict[str, dict[str, Any]] = {"model": model}
    for name, recipe in config.sets.items():
        trained = {"model": model, "context": config.context, **asdict(recipe)}
        trained["version"] = TRAINING_VERSION
        result[name] = trained
        index = {"set": trained, **asdict(config.index), "version": INDEX_VERSION}
        result[f"{name}/features"] = index
    return result


def write_stamp(folder: Path, stamp: Mapping[str, Any]) -> None:
    """Mark a finished stage, so that :func:`build` skips it."""
    (folder / STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")


class _Stages:
    """The stages of one build."""

    def __init__(
        self, folder: Path, books: Sequence[Book], config: BuildConfig, report: Report
    ) -> None:
        self.folder, self.books, self.config, self.report = folder, books, config, report
        self.stamps = stamps(books, config)
        self.work = folder.with_name(f"{folder.name}.work")

    def _is_built(self, name: str) -> bool:
        path = self.folder / name / STAMP
        expected = json.dumps(self.stamps[name], indent=1)
        return path.is_file() and path.read_text(encoding="utf-8") == expected

    def _work(self, name: str) -> Path:
        """Return the folder where a stage works: another one if anything else determines it."""
        digest = hashlib.sha256(json.dumps(self.stamps[name]).encode()).hexdigest()
        folder = self.work / f"{name.replace('/', '-')}-{digest[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _finish(self, name: str, finished: Path) -> None:
        """Stamp a finished stage and move it to its place."""
        write_stamp(finished, self.stamps[name])
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        finished.rename(target)

    def model(self) -> None:
        """Train the tokenizer and the language model."""
        if self._is_built("model"):
            return
        work = self._work("model")
        tokenizer = self._tokenizer(work / "tokenizer")
        model = language_model.train(
            tokenizer,
            self.books,
            self.config.model,
            work,
            lambda line: self.report(f"model: {line}"),
        )
        finished = work / "model"
        model.to(torch.bfloat16).save_pretrained(finished)
        tokenizer.save_pretrained(finished)
        self._finish("model", finished)

    def _tokenizer(self, folder: Path) -> PreTrainedTokenizerFast:
        if not folder.is_dir():
            self.report("tokenizer: training")
            texts = (text for book in self.books for text in book.passages("train"))
            partial = folder.with_name("tokenizer.part")
            train_tokenizer(texts, self.config.n_tokens).save_pretrained(partial)
            partial.rename(folder)
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
        return tokenizer

    def _subject(self) -> Path:
        """Return a copy of the model in a folder with its name, which goes into the sets."""
        copy = self._work("model") / "copy" / NOVELS
        if not copy.is_dir():
            partial = copy.parent / "part"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(self.folder / "model", partial)
            partial.rename(copy)
        return copy

    def _rows(self) -> Path:
        """Return the file of rows that sets are trained on and indexed by."""
        path = self._work("model") / "rows.jsonl"
        if not path.is_file():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(self.folder / "model")
            context = self.config.context
            n_tokens = write_rows(self.books, "train", tokenizer, path, context)
            self.report(f"corpus: {n_tokens:,} tokens")
        return path

    def transcoders(self, name: str) -> None:
        """Train one transcoder set."""
        if self._is_built(name):
            return
        work, recipe = self._work(name), self.config.sets[name]
        trained = work / SCANS[name]
        if not (trained / _REPORT).is_file():
            report = train_transcoders(
                str(self._subject()),
                self._rows(),
                trained,
                **asdict(recipe),
                context=self.config.context,
                device="cpu",
                progress=_lines(name, self.report),
            )
            self.report(f"{name}: {report}")
        finished = work / "finished"
        shutil.rmtree(finished, ignore_errors=True)
        finished.mkdir()
        _copy_in_bfloat16(trained, finished)
        self._finish(name, finished)

    def index(self, name: str) -> None:
        """Build the feature index of one set."""
        stage = f"{name}/features"
        if self._is_built(stage):
            return
        finished = self._work(stage) / "features"
        if not finished.is_dir():
            summary = build_index(
                open_built(self.folder, name),
                self._rows(),
                finished,
                context=self.config.context,
                label=self.config.index.label,
                limit_tokens=self.config.index.limit_tokens,
                examples=self.config.index.examples,
                around=self.config.index.around,
                progress=_lines(f"index of {name}", self.report),
            )
            self.report(f"index of {name}: {summary}")
        self._finish(stage, finished)


def _lines(name: str, report: Report) -> Progress:
    """Return a callback that reports every twentieth of each kind of work as one line."""
    last = "", -1

    def progress(done: int, total: int, what: str) -> None:
        nonlocal last
        part = what.partition(":")[0], 20 * done // max(total, 1)
        if part != last:
            last = part
            report(f"{name}: {what} {done:,} of {total:,}")

    return progress


def _copy_in_bfloat16(source: Path, target: Path) -> None:
    """Copy a set with its matrices in bfloat16; biases and thresholds keep their precision."""
    for path in sorted(source.iterdir()):
        if path.suffix != ".safetensors":
            shutil.copyfile(path, target / path.name)
            continue
        tensors = {
            name: tensor.to(torch.bfloat16) if tensor.ndim > 1 else tensor
            for name, tensor in load_file(path).items()
        }
        save_file(tensors, target / path.name)


@torch.no_grad()
def check_gallery(model: Model) -> list[str]:
    """Return a line for every prompt of the gallery that the model does not continue as stated."""
    lines = []
    for entry in gallery(NOVELS):
        logits = model.bridge.run(torch.tensor(model.encode(entry.prompt)))[-1]
        likeliest = model.token_string(int(logits.argmax()))
        if entry.answer and likeliest != entry.answer:
            lines.append(f"{entry.title}: {likeliest!r} instead of {entry.answer!r}")
    return lines
