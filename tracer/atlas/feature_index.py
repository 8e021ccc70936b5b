"""Build atlas's feature indexes from its training prompts, with tags as candidates for labels.

:mod:`tracer.indexing` does the building. ``INDEX_RULE`` is part of the stamp of a built index, so
an index is built again when the rule changes.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tracer.atlas.prefixes import Prefixes, prompts_by_length
from tracer.atlas.tags import GROUPS, position_tags
from tracer.files import replacing
from tracer.indexing import LabelRule, build_index
from tracer.indexing.build import VERSION
from tracer.indexing.corpus import Tag
from tracer.model.model import Model
from tracer.types import Progress

LABEL_RULE: Final = LabelRule(precision=0.8, recall=0.4, fewest=1)
"""One observation is enough, because the prompts are the complete corpus."""
INDEX_RULE: Final[dict[str, Any]] = {**asdict(LABEL_RULE), "tags": 5, "version": VERSION}
CONTEXT: Final = 16
BATCH_TOKENS: Final = 8192
"""Tokens per batch; every prompt has fewer."""


def write_corpus(prefixes: Prefixes, names: list[str], path: Path) -> None:
    """Write the prompts as JSONL: token ids, and the tags of every token with a new prefix.

    A repeated prefix has no tags, because it is not counted. ``names`` are the vocabulary's tokens
    without their leading space. The file is written completely or not at all.
    """
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        _write_line(file, {"tag_groups": GROUPS})
        for place in (place for batch in prompts_by_length(prefixes.prompts) for place in batch):
            ids = prefixes.prompts[place]
            tokens = [names[token] for token in ids]
            tags: list[list[Any]] = [[]]
            for position, prefix in enumerate(prefixes.positions[place], 1):
                true_tags: list[Tag] = []
                if prefixes.first_use[prefix] == (place, position):
                    true_tags = position_tags(tokens, position, names[prefixes.predicted[prefix]])
                tags.append([[*tag] if tag.group else tag.label for tag in true_tags])
            _write_line(file, {"tokens": ids, "tags": tags})


def _write_line(file: Any, value: Any) -> None:
    file.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def build_atlas_index(
    model: Model, corpus: Path, folder: Path, progress: Progress | None = None
) -> str:
    """Build the index of a transcoder set from the file of :func:`write_corpus`.

    Returns a summary of one line.
    """
    summary = build_index(
        model,
        corpus,
        folder,
        context=CONTEXT,
        batch_tokens=BATCH_TOKENS,
        label=LABEL_RULE,
        progress=progress,
    )
    return str(summary)
