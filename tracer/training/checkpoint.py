"""The state of an unfinished training on disk: one safetensors file and one JSON file.

The JSON names the tensors' file and is replaced in one step, so a kill at any moment leaves the old
checkpoint or the new one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tracer.errors import TrainingError
from tracer.files import atomic_write, replacing

CHECKPOINT: Final = "checkpoint.json"
_TENSORS: Final = "state-{}.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The state of an unfinished training."""

    identity: Mapping[str, Any]
    """Everything that determines the result, under the names of the options."""
    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint.

    Raises ``OSError`` or ``SafetensorError`` if it cannot be written.
    """
    path = folder / _TENSORS.format(checkpoint.values["steps"])
    with replacing(path) as partial:
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in checkpoint.tensors.items()},
            partial,
        )
    note = {
        "identity": dict(checkpoint.identity),
        "values": dict(checkpoint.values),
        "tensors": path.name,
    }
    atomic_write(folder / CHECKPOINT, json.dumps(note, indent=1))
    for old in folder.glob(_TENSORS.format("*")):
        if old != path:
            old.unlink()


def load_checkpoint(folder: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """Return the folder's checkpoint; None without one.

    Raises :class:`TrainingError` if it is damaged or has another ``identity``; the message names
    the first option that differs.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        stored, values = dict(note["identity"]), dict(note["values"])
        with safe_open(folder / Path(note["tensors"]).name, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise damaged(folder, error) from error
    for option, value in identity.items():
        if stored.get(option) != value:
            raise TrainingError(
                f"{folder} holds an unfinished training with {option} {stored.get(option)}, not "
                f"{value}: resume it with the same options, or delete that folder to start again"
            )
    return Checkpoint(stored, values, tensors)


def damaged(folder: Path, error: Exception) -> TrainingError:
    """Return the error for a checkpoint that cannot be resumed."""
    return TrainingError(
        f"the checkpoint in {folder} is damaged ({error}): delete that folder and train from the "
        "start"
    )
