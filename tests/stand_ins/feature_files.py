"""A small feature index in the published layout, for tests."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path

from tracer.features.cards import FeatureCard


def save_index(folder: Path) -> Path:
    """Write the index of one layer with three features, one of them labelled."""
    features = folder / "features"
    features.mkdir(parents=True)
    records = []
    for index in range(3):
        raw = {
            "index": index,
            "examples_quantiles": [
                {
                    "quantile_name": "Top activations",
                    "examples": [
                        {"tokens": [" a", " b"], "tokens_acts_list": [0.0, 2.0 + index]},
                        {"tokens": [" c", " d"], "tokens_acts_list": [1.5, 0.0]},
                        {"tokens": [" x", " b"], "tokens_acts_list": [0.0, 1.0]},
                    ],
                }
            ],
            "top_logits": [" up"],
            "bottom_logits": [" down"],
            "act_max": 2.0 + index,
            "histogram": [3, 1],
            "activation_frequency": 0.25,
        }
        packed = zlib.compress(json.dumps(raw).encode())
        records.append(struct.pack("<I", len(packed)) + packed)
    (features / "layer_0.bin").write_bytes(b"".join(records))
    offsets = [0]
    for record in records:
        offsets.append(offsets[-1] + len(record))
    with gzip.open(features / "index.json.gz", "wt") as file:
        json.dump([{"filename": "layer_0.bin", "offsets": offsets}], file)
    with gzip.open(features / "labels.json.gz", "wt") as file:
        json.dump({"0": {"1": {"label": "letters", "precision": 0.9}}}, file)
    return folder


def known(card: FeatureCard | None) -> FeatureCard:
    """Return a card that must not be None."""
    assert card is not None
    return card
