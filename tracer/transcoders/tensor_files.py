"""Named tensors in files, and one tensor as a reader needs it: transposed, or a part of it."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tracer.errors import TranscoderError, one_line

Index = tuple[int | slice, ...]


class TensorFile(Protocol):
    """An open file of named tensors, read only when they are needed."""

    path: Path
    by_rows: bool
    """Whether a few rows can be read without the others."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def part(self, name: str, index: Index) -> Tensor:
        """Return ``tensor[index]`` in the data type of the file."""


class SafetensorsFile:
    """A safetensors file. Raises :class:`TranscoderError` if it is missing or damaged."""

    by_rows = True

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: Any = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise _unreadable(path, error) from error
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: tuple(self._file.get_slice(name).get_shape())
            for name in self._file.keys()  # noqa: SIM118 (not a dict)
        }

    def part(self, name: str, index: Index) -> Tensor:
        try:
            if not index:
                whole: Tensor = self._file.get_tensor(name)
                return whole
            part: Tensor = self._file.get_slice(name)[index]
            return part
        except (OSError, IndexError, SafetensorError) as error:
            raise _unreadable(self.path, error) from error


class NpzFile:
    """An archive of NumPy arrays. Arrays of Python objects, which could run code, are refused."""

    by_rows = False

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if name.endswith(_MEMBER)]
                self.shapes: Mapping[str, tuple[int, ...]] = {
                    name.removesuffix(_MEMBER): _npy_shape(archive, name) for name in members
                }
        except _DAMAGED as error:
            raise _unreadable(path, error) from error

    def part(self, name: str, index: Index) -> Tensor:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(name + _MEMBER) as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
            return torch.from_numpy(np.ascontiguousarray(array[index]))
        except _DAMAGED as error:
            raise _unreadable(self.path, error) from error


_MEMBER: Final = ".npy"
_DAMAGED: Final = (
    OSError, IndexError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def _npy_shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """Return the shape in the header of a member, without reading the array."""
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(member)
    if dtype.hasobject:
        raise ValueError(f"{name} contains Python objects instead of numbers")
    return tuple(shape)


def open_tensors(path: Path) -> TensorFile:
    """Open a ``.npz`` or ``.safetensors`` file.

    Raises :class:`TranscoderError` naming the file if it is missing or damaged.
    """
    return NpzFile(path) if path.suffix == ".npz" else SafetensorsFile(path)


def _unreadable(path: Path, error: Exception) -> TranscoderError:
    return TranscoderError(
        f"{path} cannot be read ({one_line(error)}): a set needs a file for every layer of the "
        "model; fetch it again"
    )


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file, in the shape that this project uses."""

    file: TensorFile
    name: str
    transposed: bool = False
    """The last two axes are swapped in the file."""
    entry: int | None = None
    """The layer to take from a tensor that has all layers along its first axis."""
    first_output: int = 0
    """The first output layer to take from ``(features, layers, d_model)``."""

    @property
    def _prefix(self) -> Index:
        return () if self.entry is None else (self.entry,)

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.file.shapes[self.name][len(self._prefix) :]
        if self.transposed:
            return (*shape[:-2], *reversed(shape[-2:]))
        if self.first_output and len(shape) == 3:
            return (shape[0], max(shape[1] - self.first_output, 0), shape[2])
        return shape

    @property
    def n_values(self) -> int:
        return math.prod(self.shape)

    @property
    def place(self) -> str:
        """Name and file, for a message."""
        return f"{self.name} in {self.file.path}"

    def whole(self) -> Tensor:
        """Return the complete tensor in the data type of the file."""
        if self.transposed:
            return self.file.part(self.name, self._prefix).T.contiguous()
        if self.first_output:
            outputs = (slice(None), slice(self.first_output, None))
            return self.file.part(self.name, (*self._prefix, *outputs)).contiguous()
        return self.file.part(self.name, self._prefix)

    def rows(self, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop``, reading no others if the file is ``by_rows``."""
        if self.transposed:
            return self.file.part(self.name, (*self._prefix, slice(None), slice(start, stop))).T
        index: Index = (*self._prefix, slice(start, stop))
        if self.first_output:
            index = (*index, slice(self.first_output, None))
        return self.file.part(self.name, index)
