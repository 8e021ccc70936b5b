from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from small_training import OPTIONS, sentences

import tracer
from tracer.model.model import Model
from tracer.training import open_model


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "texts.txt"
    path.write_text("\n\n".join(sentences()) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """Opens (and keeps) a small random model without transcoders."""
    root = tmp_path_factory.mktemp("models")
    opened: dict[str, Model] = {}

    def open_one(architecture: str = "gpt2") -> Model:
        if architecture not in opened:
            folder = tiny.save_model(root / architecture, architecture)
            opened[architecture] = open_model(str(folder), "cpu")
        return opened[architecture]

    return open_one


@pytest.fixture
def train(
    bare: Callable[..., Model], corpus: Path, tmp_path: Path
) -> Callable[..., tracer.TrainingReport]:
    """Trains a set into ``tmp_path / name``."""

    def train_one(name: str = "set", architecture: str = "gpt2", **more: Any) -> Any:
        options = {"corpus": corpus, **OPTIONS, **more}
        text = options.pop("corpus")
        return tracer.train_transcoders(bare(architecture), text, tmp_path / name, **options)

    return train_one
