"""Measure the embedded model of English on text that was held out from everything."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tracer.catalog.embedded import EMBEDDED_SETS, NOVELS
from tracer.errors import CorpusError, ModelError
from tracer.interventions.gallery_checks import Faithfulness, gallery_faithfulness
from tracer.novels.books import Book, Split, read_books
from tracer.novels.build import check_gallery, open_built
from tracer.novels.language_model import mean_loss
from tracer.novels.ngrams import ORDER, NGrams
from tracer.novels.pronoun_swaps import PronounSwaps, pronoun_swaps
from tracer.novels.token_rows import CONTEXT, write_rows
from tracer.novels.tokenizer import N_CONTEXT
from tracer.novels.windows import tokenize, windows
from tracer.training import TrainingReport, evaluate_transcoders

Report = Callable[[str], None]
_WINDOWS: Final = 400
"""Held-out windows that the losses of model and n-grams are measured on."""


@dataclass(frozen=True)
class Evaluation:
    """Every figure, for the model and by transcoder set."""

    loss: float
    """Of the language model, in nats per token."""
    ngram_loss: float | None
    """Of the n-gram model on the same tokens; None if it was left out."""
    tokens: int
    """Tokens that both were measured on."""
    gallery: tuple[str, ...]
    """Prompts of the gallery that the model does not continue as stated."""
    sets: Mapping[str, TrainingReport]
    swaps: Mapping[str, PronounSwaps]
    faithfulness: Mapping[str, Faithfulness]
    """Of the gallery's graphs: predicted against measured effects on the answer's logit."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "loss": self.loss,
            "ngram_loss": self.ngram_loss,
            "tokens": self.tokens,
            "gallery": list(self.gallery),
            "sets": {name: report.to_dict() for name, report in self.sets.items()},
            "pronoun_swaps": {name: asdict(swaps) for name, swaps in self.swaps.items()},
            "faithfulness": {name: asdict(check) for name, check in self.faithfulness.items()},
        }

    def __str__(self) -> str:
        """Return a table for a terminal."""
        lines = [f"loss on {self.tokens:,} held-out tokens   {self.loss:.3f} nats per token"]
        if self.ngram_loss is not None:
            lines.append(f"  {ORDER}-grams, Kneser-Ney             {self.ngram_loss:.3f}")
        lines += [f"gallery: {line}" for line in self.gallery]
        for name, report in self.sets.items():
            swaps, check = self.swaps[name], self.faithfulness[name]
            lines += [
                "",
                str(report),
                "",
                f"“she” and “he” change places ({swaps.pairs} pairs, of {swaps.candidates} tried)",
                f"  features at the noun exchanged       {swaps.at_noun:.0%}",
                f"  at the noun and the last token       {swaps.at_noun_and_end:.0%}",
                f"  control: random other features       {swaps.control:.0%}",
                "gallery, predicted against measured effects",
                f"  correlation, median                  {check.faithfulness_median:.3f}",
                f"  correlation, lowest                  {check.faithfulness_lowest:.3f}",
            ]
        return "\n".join(lines)


def evaluate(
    corpus: Path, folder: Path, report: Report = lambda line: None, ngrams: bool = True
) -> Evaluation:
    """Measure the model and both sets in ``folder`` on the held-out split of the books.

    Raises :class:`CorpusError` for a file that cannot be used and :class:`ModelError` when the
    folder has no complete model.
    """
    for part in ("model/config.json", *(f"{name}/config.yaml" for name in EMBEDDED_SETS)):
        if not (folder / part).is_file():
            raise ModelError(f"{folder / part} is missing: build it with python -m tracer.novels")
    books = read_books(corpus)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "model")
    rows = _rows(books, tokenizer, "validation")
    random.Random(0).shuffle(rows)
    rows = rows[:_WINDOWS]
    if not rows:
        raise CorpusError(f"{corpus} has no held-out text: its books are too short")
    report("the loss of the model")
    model = LlamaForCausalLM.from_pretrained(folder / "model").float().eval()
    loss = mean_loss(model, rows)
    ngram_loss = None
    if ngrams:
        report("the loss of an n-gram model")
        seen = _rows(books, tokenizer, "train")
        ngram_loss = NGrams(seen, len(tokenizer)).loss(rows)
    sets, swaps, faithfulness = {}, {}, {}
    with tempfile.TemporaryDirectory(prefix="novels-") as work:
        held_out = Path(work) / "held-out.jsonl"
        n_tokens = write_rows(books, "validation", tokenizer, held_out)
        for name in EMBEDDED_SETS:
            report(f"{name} on held-out text")
            opened = open_built(folder, name)
            sets[name] = evaluate_transcoders(opened, held_out, tokens=n_tokens, context=CONTEXT)
            report(f"{name}: “she” and “he”")
            swaps[name] = pronoun_swaps(opened)
            report(f"{name}: the graphs of the gallery")
            faithfulness[name] = gallery_faithfulness(opened, NOVELS)
    gallery = check_gallery(open_built(folder, EMBEDDED_SETS[0]))
    count = sum(len(row) - 1 for row in rows)
    return Evaluation(loss, ngram_loss, count, tuple(gallery), sets, swaps, faithfulness)


def _rows(books: tuple[Book, ...], tokenizer: Any, split: Split) -> list[list[int]]:
    passages = [tokenize(text, tokenizer) for book in books for text in book.passages(split)]
    return windows(passages, tokenizer.bos_token_id, N_CONTEXT)
