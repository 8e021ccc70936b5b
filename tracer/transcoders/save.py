"""Write transcoder sets in the two published layouts that can be read row by row.

A set is converted tensor by tensor, in the data type it is stored in: not a bit changes. The
target folder appears whole or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import torch
from safetensors.torch import save_file
from torch import Tensor

from tracer.errors import TranscoderError
from tracer.transcoders.config import CONFIG, SetConfig, local_files, read_config
from tracer.transcoders.layouts import THRESHOLD, count_layers, find_layers
from tracer.transcoders.lazy_rows import StoredRows
from tracer.transcoders.transcoder import Transcoder, TranscoderSet
from tracer.types import Progress


def convert(
    source: Path | str,
    target: Path | str,
    files: Sequence[Path] | None = None,
    progress: Progress | None = None,
) -> int:
    """Rewrite the set in ``source``, whatever its layout, so that it is read lazily; its layers.

    A per-layer set becomes ``layer_{i}.safetensors``, a cross-layer set ``W_enc_{i}`` and
    ``W_dec_{i}.safetensors``. ``files`` are local copies of what ``config.yaml`` lists.

    Raises :class:`TranscoderError` when the source cannot be read or the target is in the way.
    """
    source, target = Path(source), Path(target)
    config = read_config(source)
    listed = local_files(source, config) if files is None else files
    n_layers = count_layers(source, config, listed)
    layers = find_layers(source, config, listed, n_layers)

    def tensors() -> Iterator[Mapping[str, Tensor]]:
        for number, layer in enumerate(layers):
            if progress is not None:
                progress(number, n_layers, f"converting layer {number}")
            yield {name: tensor.whole() for name, tensor in layer.items()}

    _write(target, replace(config, transcoders=()), tensors())
    return n_layers


def save_transcoders(transcoders: TranscoderSet, target: Path | str) -> None:
    """Write an opened set, in the data type it is held in, per-layer or cross-layer as it is.

    Raises :class:`TranscoderError` when the target is in the way.
    """
    k = {layer.k for layer in transcoders.layers}
    one_k = len(k) == 1  # then it stands in the config, where circuit-tracer looks for it
    config = SetConfig(
        model_name=transcoders.model_name,
        cross_layer=transcoders.is_cross_layer,
        read_point=transcoders.read_point,
        write_point=transcoders.write_point,
        scan=transcoders.scan,
        activation="topk" if None not in k else "",
        k=next(iter(k)) if one_k else None,
    )
    _write(Path(target), config, (_tensors(layer, not one_k) for layer in transcoders.layers))


def _tensors(layer: Transcoder, with_k: bool) -> dict[str, Tensor]:
    def held(matrix: Tensor | StoredRows) -> Tensor:
        return matrix.whole() if isinstance(matrix, StoredRows) else matrix

    tensors = {
        "W_enc": held(layer.W_enc),
        "W_dec": held(layer.W_dec),
        "b_enc": layer.b_enc,
        "b_dec": layer.b_dec,
    }
    if layer.threshold is not None:
        tensors["threshold"] = layer.threshold
    if layer.W_skip is not None:
        tensors["W_skip"] = layer.W_skip
    if with_k and layer.k is not None:
        tensors["k"] = torch.tensor([layer.k])
    return tensors


def _write(target: Path, config: SetConfig, layers: Iterable[Mapping[str, Tensor]]) -> None:
    with _appearing(target) as folder:
        for number, tensors in enumerate(layers):
            ready = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
            if config.cross_layer:
                decoder = {f"W_dec_{number}": ready.pop("W_dec")}
                save_file(decoder, folder / f"W_dec_{number}.safetensors")
                encoder = {f"{name}_{number}": tensor for name, tensor in ready.items()}
                save_file(encoder, folder / f"W_enc_{number}.safetensors")
                continue
            if ready["W_dec"].ndim == 3:
                ready["W_dec"] = ready["W_dec"][:, 0].contiguous()
            if "threshold" in ready:
                ready[THRESHOLD] = ready.pop("threshold")
            save_file(ready, folder / f"layer_{number}.safetensors")
        (folder / CONFIG).write_text(config.to_yaml(), encoding="utf-8")


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A new folder that takes the name ``target`` when all went well, and is gone when not."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise TranscoderError(f"{target} is there already: choose a folder that is new or empty")
    partial = target.with_name(f".{target.name}.{uuid4().hex[:8]}.part")
    try:
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rmdir()
        partial.replace(target)
    except OSError as error:
        raise TranscoderError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
