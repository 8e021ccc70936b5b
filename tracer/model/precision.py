"""The precision of float32 matrix products, set for a block of code and restored after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def float32_products(tf32: bool = False) -> Iterator[None]:
    """Multiply float32 matrices in full precision, or with ``tf32`` in TF32 on CUDA.

    PyTorch keeps this setting for the whole process. Other code may have allowed TF32 (CUDA) or
    bfloat16 (oneDNN, on CPUs), and numbers computed under it would not be float32.
    """
    backends: Any = torch.backends  # its attributes are made at run time
    cuda, cpu = backends.cuda.matmul, backends.mkldnn.matmul
    before = cuda.fp32_precision, cpu.fp32_precision
    cuda.fp32_precision, cpu.fp32_precision = "tf32" if tf32 else "ieee", "ieee"
    try:
        yield
    finally:
        cuda.fp32_precision, cpu.fp32_precision = before
