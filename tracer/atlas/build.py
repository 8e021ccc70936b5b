"""Build atlas from its facts and a seed: model, transcoder sets, feature indexes.

Each stage writes to a temporary folder that is renamed when it is complete, with a stamp of
everything that determines it. A stage whose stamp matches is skipped, so an interrupted build
resumes at the stage where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from tracer.atlas import corpus, facts, feature_index, tokenizer, training
from tracer.atlas.corpus import Sentence
from tracer.atlas.prefix_source import PrefixSource, SetRecipe
from tracer.atlas.prefixes import Prefixes, collect_prefixes
from tracer.model.bridge import Bridge
from tracer.model.model import load
from tracer.paths import ATLAS_WEIGHTS
from tracer.training.trainer import fit
from tracer.transcoders.config import ReadPoint, WritePoint
from tracer.transcoders.save import save_transcoders

Report = Callable[[str], None]
STAMP: Final = "stamp.json"
SETS: Final = {
    "per-layer": SetRecipe(cross_layer=False),
    "cross-layer": SetRecipe(cross_layer=True),
}


def build(
    folder: Path = ATLAS_WEIGHTS, report: Report = lambda line: None, threads: int = 2
) -> None:
    """Build whatever is missing in ``folder``; all of it takes 25 minutes on two CPU cores."""
    torch.set_num_threads(threads)
    every = list(corpus.sentences())
    model_config = training.TrainingConfig()
    text = hashlib.sha256(json.dumps([s.text + s.split for s in every]).encode()).hexdigest()
    stamp: dict[str, Any] = {"corpus": text, "mixture": training.MIXTURE, **asdict(model_config)}
    if not _is_built(folder / "model", stamp):
        _stage(folder / "model", stamp, partial(_train_model, every, model_config, report=report))
    stages = []
    for name, config in SETS.items():
        set_stamp = {"model": stamp, **asdict(config)}
        index_stamp = {"set": set_stamp, "index": feature_index.INDEX_RULE}
        stages.append((name, config, set_stamp, index_stamp))
    if all(
        _is_built(folder / name, set_stamp) and _is_built(folder / name / "features", index_stamp)
        for name, _, set_stamp, index_stamp in stages
    ):
        return
    bridge = Bridge(folder / "model", torch.device("cpu"), torch.float32)
    prefixes = collect_prefixes(bridge, every)
    report(f"{len(prefixes.prompts)} prompts, {len(prefixes)} distinct prefixes")
    corpus_file = folder / "corpus.jsonl"
    corpus_file.unlink(missing_ok=True)  # left by an interrupted build, perhaps of other prompts
    for name, config, set_stamp, index_stamp in stages:
        report_set = partial(_prefixed, report, name)
        if not _is_built(folder / name, set_stamp):
            _stage(
                folder / name, set_stamp, partial(train_set, prefixes, config, report=report_set)
            )
        if not _is_built(folder / name / "features", index_stamp):
            if not corpus_file.exists():
                feature_index.write_corpus(prefixes, _token_names(bridge), corpus_file)
            make = partial(_build_index, folder, name, corpus_file, report=report_set)
            _stage(folder / name / "features", index_stamp, make)
    corpus_file.unlink(missing_ok=True)


def _prefixed(report: Report, name: str, line: str) -> None:
    report(f"{name}: {line}")


def _is_built(folder: Path, stamp: dict[str, Any]) -> bool:
    path = folder / STAMP
    return path.is_file() and path.read_text(encoding="utf-8") == json.dumps(stamp, indent=1)


def _stage(folder: Path, stamp: dict[str, Any], make: Callable[[Path], None]) -> None:
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    make(unfinished)
    (unfinished / STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def all_names() -> list[str]:
    """Return every name that must be one token."""
    names: list[str] = []
    for state in facts.states():
        names += [state.name, state.abbreviation, state.region, state.capital, *state.cities]
    for country in facts.countries():
        names += [country.name, country.capital, country.language, country.continent]
        names += country.cities
    for pair in facts.opposites():
        names += [*pair.left, *pair.right]
    return names


def _train_model(
    every: list[Sentence], config: training.TrainingConfig, out: Path, report: Report
) -> None:
    words = tokenizer.build_tokenizer((s.text for s in every), all_names())
    dev = {
        family: [s for s in every if s.family == family and s.split == "dev"]
        for family in ("two-hop", "opposite", "sum")
    }

    def score(model: Any) -> str:
        model.eval()
        shares = [
            f"{family} {training.accuracy(model, words, questions[:600]):.3f}"
            for family, questions in dev.items()
        ]
        model.train()
        return "held out: " + ", ".join(shares)

    report(f"model: {len(words)} tokens, {len(every)} sentences")
    model = training.train(words, every, config, lambda line: report(f"model: {line}"), score)
    model.save_pretrained(out)
    words.save_pretrained(out)


def train_set(prefixes: Prefixes, config: SetRecipe, out: Path, report: Report) -> None:
    """Train one set with the general trainer and write it to ``out``."""
    recipe = config.recipe()
    dictionary = fit(PrefixSource(prefixes, recipe), recipe, report)
    transcoders = dictionary.to_transcoders(
        ReadPoint.MLP_INPUT,
        WritePoint.MLP_OUTPUT,
        scan="atlas-clt" if config.cross_layer else "atlas-plt",
        model_name="atlas",
    )
    save_transcoders(transcoders, out)


def _build_index(folder: Path, name: str, corpus_file: Path, out: Path, report: Report) -> None:
    model = load(str(folder / "model"), str(folder / name), device="cpu")
    report(feature_index.build_atlas_index(model, corpus_file, out))


def write_corpus(path: Path, folder: Path = ATLAS_WEIGHTS) -> int:
    """Write the corpus that the feature indexes are built from; return its number of prompts."""
    bridge = Bridge(folder / "model", torch.device("cpu"), torch.float32)
    prefixes = collect_prefixes(bridge, list(corpus.sentences()))
    feature_index.write_corpus(prefixes, _token_names(bridge), path)
    return len(prefixes.prompts)


def _token_names(bridge: Bridge) -> list[str]:
    pieces = bridge.tokenizer.convert_ids_to_tokens(range(bridge.vocab_size))
    return [piece.replace("▁", " ").strip() for piece in pieces]
