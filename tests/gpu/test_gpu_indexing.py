"""An index built on an accelerator has the numbers of one built on the CPU."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

import tracer
from tracer.features.cards import FeatureIndex
from tracer.model.model import Model
from tracer.types import FeatureId


def save_corpus(path: Path) -> Path:
    generator = random.Random(5)
    texts = [" ".join(f"w{generator.randrange(20)}" for _ in range(12)) for _ in range(60)]
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["transcoder_set", "cross_layer_transcoder"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_index_has_the_same_statistics(
    open_pair: Callable[..., tuple[Model, Model]], tmp_path: Path, kind: str, dtype: str
) -> None:
    corpus = save_corpus(tmp_path / "corpus.txt")
    models = open_pair(dtype=dtype, kind=kind)
    summaries, indexes = [], []
    for name, model in zip(("cpu", "accelerator"), models, strict=True):
        folder = tmp_path / name / "features"
        folder.parent.mkdir()
        summaries.append(tracer.build_index(model, corpus, folder, context=16))
        indexes.append(FeatureIndex.open(folder.parent))
    assert summaries[0].tokens == summaries[1].tokens
    assert abs(summaries[0].alive - summaries[1].alive) <= 1
    same_labels = compared = 0
    for layer in range(3):
        for number in range(models[0].transcoders[layer].n_features):
            feature = FeatureId(layer, number)
            expected, card = (index.card(feature) for index in indexes)
            assert expected is not None and card is not None
            assert card.act_max == pytest.approx(expected.act_max, abs=1e-3)
            assert card.frequency == pytest.approx(expected.frequency, abs=0.01)
            assert len({*card.promoted} & {*expected.promoted}) >= 7
            compared += 1
            labels = [None if c.label is None else c.label.text for c in (card, expected)]
            same_labels += labels[0] == labels[1]
    assert compared == 72 and same_labels >= 0.9 * compared
