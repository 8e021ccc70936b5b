"""The feature index: what every feature fires on, what it promotes, and its label if earned.

Built from the distinct prefixes of the training prompts. A feature earns a label in one of three
ways, each with its precision, the share of the feature's activation that the label covers, at least
`LABEL_PRECISION`:

1. one tag (see `tags`) that the feature also fires on in `LABEL_RECALL` of the places where the tag
   holds; of several the one with the best harmonic mean of both;
2. two or three tags of a group, for features that mix a few places, answers or words;
3. the tokens it promotes most, if the model then says one of them.

Every other feature has no label.
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from tracer.atlas.prefixes import Prefixes
from tracer.atlas.tags import GROUPS, Tag, position_tags
from tracer.models import Model

Report = Callable[[str], None]
LABEL_PRECISION: Final = 0.8
LABEL_RECALL: Final = 0.4
N_EXAMPLES: Final = 12
N_TOKENS_SHOWN: Final = 8
_MAX_LABEL: Final = 40
LABEL_RULE: Final = {"precision": LABEL_PRECISION, "recall": LABEL_RECALL, "version": 4}


def build_index(model: Model, prefixes: Prefixes, folder: Path, report: Report) -> None:
    """Write the index of the model's transcoder set into ``folder``."""
    names = [model.token_string(token).strip() for token in range(model.vocab_size)]
    tags, matrix = _tag_matrix(prefixes, names)
    said = torch.tensor(prefixes.said)
    last_tokens = [names[prefixes.prompts[prompt][at]] for prompt, at in prefixes.first_use]
    report(f"{len(tags)} candidate labels")
    folder.mkdir(parents=True, exist_ok=True)
    index, labels = [], {}
    for layer in range(model.n_layers):
        active = model.transcoders[layer].activations(prefixes.inputs[layer])
        chosen = _labels(active, tags, matrix)
        moved = _moved_logits(model, layer)
        _add_promoted(chosen, active, moved.topk(N_TOKENS_SHOWN, dim=1).indices, said, names)
        chosen = {
            feature: (_written_out(label, active[:, feature], last_tokens), share)
            for feature, (label, share) in chosen.items()
        }
        offsets, records = [0], []
        for feature in range(active.shape[1]):
            raw = _record(
                model, layer, feature, active, moved[feature], prefixes, chosen.get(feature)
            )
            packed = zlib.compress(json.dumps(raw, ensure_ascii=False).encode(), 9)
            records.append(struct.pack("<I", len(packed)) + packed)
            offsets.append(offsets[-1] + len(records[-1]))
        (folder / f"layer_{layer}.bin").write_bytes(b"".join(records))
        index.append({"filename": f"layer_{layer}.bin", "offsets": offsets})
        labels[str(layer)] = {
            str(feature): {"label": label, "precision": round(precision, 3)}
            for feature, (label, precision) in sorted(chosen.items())
        }
        alive = int((active > 0).any(0).sum())
        report(f"layer {layer}: {alive} features fire, {len(chosen)} labelled")
    _write_json_gz(folder / "index.json.gz", index)
    _write_json_gz(folder / "labels.json.gz", labels)


def _write_json_gz(path: Path, value: Any) -> None:
    packed = gzip.compress(json.dumps(value, ensure_ascii=False).encode(), mtime=0)
    path.write_bytes(packed)


def _tag_matrix(prefixes: Prefixes, names: list[str]) -> tuple[list[Tag], Tensor]:
    """Candidate labels, and a sparse ``(tags, prefixes)`` matrix of where each holds."""
    tags: dict[Tag, int] = {}
    rows, columns = [], []
    for column, (prompt, position) in enumerate(prefixes.first_use):
        tokens = [names[token] for token in prefixes.prompts[prompt]]
        for tag in position_tags(tokens, position, names[prefixes.said[column]]):
            rows.append(tags.setdefault(tag, len(tags)))
            columns.append(column)
    shape = (len(tags), len(prefixes.first_use))
    matrix = torch.sparse_coo_tensor(
        torch.tensor([rows, columns]), torch.ones(len(rows)), shape, check_invariants=False
    )
    return list(tags), matrix.coalesce()


def _labels(active: Tensor, tags: list[Tag], matrix: Tensor) -> dict[int, tuple[str, float]]:
    """Label and precision of every feature that one tag, or two or three of a group, describe."""
    mass = matrix @ active
    precision = mass / active.sum(0).clamp(min=1e-9)
    holds = (matrix @ torch.ones(active.shape[0], 1)).clamp(min=1)
    recall = (matrix @ (active > 0).float()) / holds
    score = 2 * precision * recall / (precision + recall).clamp(min=1e-9)
    score[(precision < LABEL_PRECISION) | (recall < LABEL_RECALL)] = 0
    best, rows = score.max(0)
    labels = {
        feature: (tags[int(rows[feature])].label, float(precision[rows[feature], feature]))
        for feature in (best > 0).nonzero()[:, 0].tolist()
    }
    for group in GROUPS:
        _add_unions(labels, precision, tags, group)
    return labels


def _add_unions(
    labels: dict[int, tuple[str, float]], precision: Tensor, tags: list[Tag], group: str
) -> None:
    """Label what is left by two or three tags of a group; their shares add up."""
    rows = [row for row, tag in enumerate(tags) if tag.group == group]
    shares, places = precision[rows].topk(3, dim=0)
    reached = shares.cumsum(0)
    for feature in range(precision.shape[1]):
        for count in (2, 3):
            total = float(reached[count - 1, feature])
            if feature not in labels and total >= LABEL_PRECISION:
                found = [tags[rows[int(place)]].what for place in places[:count, feature]]
                labels[feature] = (GROUPS[group] + " / ".join(found), total)


def _add_promoted(
    labels: dict[int, tuple[str, float]],
    active: Tensor,
    promoted: Tensor,
    said: Tensor,
    names: list[str],
) -> None:
    """Label what is left by the tokens it promotes, where the model then says one of them."""
    for feature in range(active.shape[1]):
        column = active[:, feature]
        if feature in labels or not column.any():
            continue
        hit = torch.isin(said, promoted[feature])
        share = float(column[hit].sum() / column.sum())
        if share >= LABEL_PRECISION:
            mass = torch.zeros(len(names)).index_add_(0, said[hit], column[hit])
            top = [names[token] for token in mass.topk(3).indices.tolist() if mass[token] > 0]
            labels[feature] = ("say " + " / ".join(top), share)


def _written_out(label: str, column: Tensor, last_tokens: list[str]) -> str:
    """The label with examples in place of ``*``, cut to a readable length."""
    if label.endswith("*"):
        order = column.argsort(descending=True)[:60].tolist()
        names = dict.fromkeys(last_tokens[prefix] for prefix in order if column[prefix] > 0)
        label = label.removesuffix("*") + ", ".join(list(names)[:3])
    return label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1].rstrip(" ,/") + "…"


def _record(
    model: Model,
    layer: int,
    feature: int,
    active: Tensor,
    moved: Tensor,
    prefixes: Prefixes,
    label: tuple[str, float] | None,
) -> dict[str, Any]:
    column = active[:, feature]
    order = column.argsort(descending=True)[: int((column > 0).sum())]
    values = column[order]
    groups = []
    if len(order):
        groups.append(("Top activations", _diverse(order.tolist(), prefixes, N_EXAMPLES)))
        for name, low, high in (("Upper half", 0.0, 0.5), ("Lower half", 0.5, 1.0)):
            part = order[int(low * len(order)) : int(high * len(order))].tolist()
            if len(order) > 2 * N_EXAMPLES:
                step = max(1, len(part) // 4)
                groups.append((name, part[step // 2 :: step][:4]))
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    by_effect = moved.argsort(descending=True).tolist()
    top = float(values[0]) if len(values) else 0.0
    return {
        "transcoder_id": f"{model.transcoders.scan}-{layer}",
        "index": feature,
        "examples_quantiles": [
            {
                "quantile_name": name,
                "examples": [_example(model, p, column, prefixes) for p in part],
            }
            for name, part in groups
        ],
        "top_logits": list(model.token_strings(by_effect[:N_TOKENS_SHOWN])),
        "bottom_logits": list(model.token_strings(by_effect[: -N_TOKENS_SHOWN - 1 : -1])),
        "act_min": 0.0,
        "act_max": round(top, 4),
        "quantile_values": (
            [round(float(q), 4) for q in values.quantile(torch.tensor(quantiles))] if top else []
        ),
        "histogram": torch.histc(values, 20, 0, top).int().tolist() if top else [],
        "activation_frequency": len(values) / len(column),
        **({"label": label[0], "label_precision": round(label[1], 3)} if label else {}),
    }


def _diverse(order: list[int], prefixes: Prefixes, count: int) -> list[int]:
    """The strongest prefixes, at most three that end in the same token, then the rest."""
    taken: dict[int, int] = defaultdict(int)
    chosen: list[int] = []
    later: list[int] = []
    for prefix in order[: 40 * count]:
        prompt, position = prefixes.first_use[prefix]
        token = prefixes.prompts[prompt][position]
        taken[token] += 1
        (chosen if taken[token] <= 3 else later).append(prefix)
        if len(chosen) == count:
            break
    return (chosen + later)[:count]


def _example(model: Model, prefix: int, column: Tensor, prefixes: Prefixes) -> dict[str, Any]:
    prompt, position = prefixes.first_use[prefix]
    ids = prefixes.prompts[prompt]
    values = [0.0, *(round(float(column[p]), 3) for p in prefixes.positions[prompt])]
    return {
        "tokens": list(model.token_strings(ids)),
        "tokens_acts_list": values,
        "train_token_ind": position,
        "is_repeated_datapoint": False,
    }


def _moved_logits(model: Model, layer: int) -> Tensor:
    """``(features, vocab)``: what each feature adds to the logits, writing straight to the output,
    per unit of activation and against the mean logit; before the final norm's scale."""
    written = model.transcoders[layer].decoder().sum(1)
    return written @ model.unembedding - (written @ model.mean_unembedding)[:, None]
