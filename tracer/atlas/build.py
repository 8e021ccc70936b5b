"""Build atlas from its facts and a seed: model, transcoder sets, feature indexes.

Each stage writes into a temporary folder that is renamed when whole, beside a stamp of all that
shaped it; a stage whose stamp matches is skipped, so an interrupted build goes on where it was.
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

from tracer.atlas import corpus, dictionary_training, facts, feature_index, tokenizer, training
from tracer.atlas.corpus import Sentence
from tracer.atlas.paths import WEIGHTS
from tracer.atlas.prefixes import Prefixes, collect_prefixes
from tracer.bridge import Bridge
from tracer.models import Model
from tracer.sources import ModelSource
from tracer.transcoders import load_transcoders

Report = Callable[[str], None]
STAMP: Final = "stamp.json"
SETS: Final = {
    "per-layer": dictionary_training.DictionaryConfig(cross_layer=False),
    "cross-layer": dictionary_training.DictionaryConfig(cross_layer=True),
}


def build(folder: Path = WEIGHTS, report: Report = lambda line: None, threads: int = 2) -> None:
    """Make whatever is missing in ``folder``; about 25 minutes on two CPU cores from nothing."""
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
        index_stamp = {"set": set_stamp, "labels": feature_index.LABEL_RULE}
        stages.append((name, config, set_stamp, index_stamp))
    if all(
        _is_built(folder / name, set_stamp) and _is_built(folder / name / "features", index_stamp)
        for name, _, set_stamp, index_stamp in stages
    ):
        return
    bridge = Bridge(folder / "model", torch.device("cpu"), torch.float32)
    prefixes = collect_prefixes(bridge, every)
    report(f"{len(prefixes.prompts)} prompts, {len(prefixes)} distinct prefixes")
    for name, config, set_stamp, index_stamp in stages:
        said = partial(_prefixed, report, name)
        if not _is_built(folder / name, set_stamp):
            _stage(folder / name, set_stamp, partial(_train_set, prefixes, config, report=said))
        if not _is_built(folder / name / "features", index_stamp):
            make = partial(_build_index, bridge, prefixes, folder, name, report=said)
            _stage(folder / name / "features", index_stamp, make)


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
    """Every name that is one token."""
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
            f"{family} {training.accuracy(model, words, asked[:600]):.3f}"
            for family, asked in dev.items()
        ]
        model.train()
        return "held out: " + ", ".join(shares)

    report(f"model: {len(words)} tokens, {len(every)} sentences")
    model = training.train(words, every, config, lambda line: report(f"model: {line}"), score)
    model.save_pretrained(out)
    words.save_pretrained(out)


def _train_set(
    prefixes: Prefixes, config: dictionary_training.DictionaryConfig, out: Path, report: Report
) -> None:
    dictionary = dictionary_training.train_dictionary(prefixes, config, report)
    dictionary_training.save_dictionary(dictionary, out)


def _build_index(
    bridge: Bridge, prefixes: Prefixes, folder: Path, name: str, out: Path, report: Report
) -> None:
    transcoders = load_transcoders(folder / name, bridge.n_layers, bridge.d_model)
    source = ModelSource("atlas", name, folder / "model", folder / name, fingerprint="")
    feature_index.build_index(Model(source, bridge, transcoders), prefixes, out, report)
