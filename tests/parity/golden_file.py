"""Read and write golden files: square matrices without their zeros, masks as bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_PARTS = (".bits", ".shape", ".values")


def write(path: Path, tensors: dict[str, Tensor], checksum: str) -> None:
    """Write what the peer computed from the weights with this checksum."""
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.bool or _is_square(tensor):
            present = tensor != 0
            bits = np.packbits(present.numpy())
            packed[f"{name}.bits"] = torch.from_numpy(bits)
            packed[f"{name}.shape"] = torch.tensor(tensor.shape)
            if tensor.dtype != torch.bool:
                packed[f"{name}.values"] = tensor[present]
        else:
            packed[name] = tensor.contiguous()
    save_file(packed, path, {"weights": checksum})


def read(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors and the checksum that :func:`write` was given."""
    with safe_open(path, "pt") as file:
        packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        checksum = file.metadata()["weights"]
    tensors = {name: value for name, value in packed.items() if not name.endswith(_PARTS)}
    for name in [name.removesuffix(".bits") for name in packed if name.endswith(".bits")]:
        shape = packed[f"{name}.shape"].tolist()
        bits = np.unpackbits(packed[f"{name}.bits"].numpy(), count=int(np.prod(shape)))
        tensor = torch.from_numpy(bits).bool().reshape(shape)
        if f"{name}.values" in packed:
            values = packed[f"{name}.values"]
            tensor = torch.zeros(shape, dtype=values.dtype).masked_scatter_(tensor, values)
        tensors[name] = tensor
    return tensors, checksum


def _is_square(tensor: Tensor) -> bool:
    return tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1]
