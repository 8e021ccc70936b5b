"""Open a model whose transcoders do not exist yet."""

from __future__ import annotations

from typing import TypeVar

import torch

from tracer.catalog.resolve import obtain_model
from tracer.errors import TrainingError
from tracer.model.bridge import Bridge
from tracer.model.device import choose_device
from tracer.model.failures import as_tracer_errors
from tracer.model.model import Model
from tracer.transcoders.config import ReadPoint, WritePoint
from tracer.transcoders.transcoder import TranscoderSet
from tracer.types import Progress


def open_model(
    name: str = "atlas",
    device: str = "auto",
    read: str = ReadPoint.MLP_INPUT.value,
    write: str = WritePoint.MLP_OUTPUT.value,
    progress: Progress | None = None,
) -> Model:
    """Open a model in float32 with an empty transcoder set.

    ``name`` is any name that :func:`tracer.load` takes. ``read`` and ``write`` are hook points of
    the published ``config.yaml``.

    Raises :class:`TrainingError` for other hook points, :class:`tracer.errors.ModelError` when the
    model cannot be opened, and :class:`tracer.errors.HubError` when it cannot be downloaded.

    >>> open_model("atlas", device="cpu").n_layers
    5
    """
    points = hook_points(read, write)
    choice = choose_device(device)
    with as_tracer_errors(f"opening {name}", choice.device):
        source = obtain_model(name, progress)
        if progress is not None:
            progress(0, 0, "reading the model")
        bridge = Bridge(source.model_folder, choice.device, torch.float32)
    return Model(source, bridge, _no_transcoders(name, *points), choice)


def without_transcoders(model: Model, read: str, write: str) -> Model:
    """Return an opened model with an empty transcoder set in place of its own."""
    source = obtain_model(model.source.name)
    return Model(source, model.bridge, _no_transcoders(source.name, *hook_points(read, write)))


def hook_points(read: str, write: str) -> tuple[ReadPoint, WritePoint]:
    """Return the two hook points by name. Raises :class:`TrainingError` for unknown ones."""
    return _point("read", read, ReadPoint), _point("write", write, WritePoint)


Point = TypeVar("Point", ReadPoint, WritePoint)


def _point(option: str, name: str, kind: type[Point]) -> Point:
    try:
        return kind(name)
    except ValueError as error:
        known = ", ".join(point.value for point in kind)
        raise TrainingError(f"{option} is {name!r}: expected one of {known}") from error


def _no_transcoders(name: str, read: ReadPoint, write: WritePoint) -> TranscoderSet:
    return TranscoderSet((), read, write, scan="", model_name=name)
