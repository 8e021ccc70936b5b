"""Write transcoder sets in the two published layouts that can be read row by row.

Converting copies every tensor in the data type it is stored in, bit by bit. A target folder appears
only when it is complete.
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
from tracer.transcoders.config import CONFIG, SetConfig, local_files
from tracer.transcoders.layouts import THRESHOLD, count_layers, find_layers
from tracer.transcoders.lazy_rows import StoredRows
from tracer.transcoders.other_tools import read_set_config
from tracer.transcoders.transcoder import Transcoder, TranscoderSet
from tracer.types import Progress


def convert(
    source: Path | str,
    target: Path | str,
    files: Sequence[Path] | None = None,
    progress: Progress | None = None,
) -> int:
    """Rewrite the set in ``source`` so that it can be read lazily; return its number of layers.

    A per-layer set becomes ``layer_{i}.safetensors``, a cross-layer set ``W_enc_{i}.safetensors``
    and ``W_dec_{i}.safetensors``. ``files`` are local copies of what ``config.yaml`` lists.
    ``progress`` counts layers.

    Raises :class:`TranscoderError` if the source cannot be read, or the target is not an empty or
    new folder.

    >>> import tempfile
    >>> from tracer.catalog.resolve import resolve
    >>> target = Path(tempfile.mkdtemp()) / "converted"
    >>> convert(resolve("atlas").transcoder_folder, target)
    5
    >>> sorted(path.name for path in target.iterdir())[:2]
    ['config.yaml', 'layer_0.safetensors']
    """
    source, target = Path(source), Path(target)
    config = read_set_config(source)
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
    """Write an opened set, per-layer or cross-layer, in the data type it was opened in.

    Raises :class:`TranscoderError` if the target is not an empty or new folder.

    >>> import tempfile
    >>> from tracer.catalog.resolve import resolve
    >>> from tracer.transcoders.load import load_transcoders
    >>> transcoders = load_transcoders(resolve("atlas").transcoder_folder, 5, 128)
    >>> target = Path(tempfile.mkdtemp()) / "copy"
    >>> save_transcoders(transcoders, target)
    >>> load_transcoders(target, 5, 128)[4].n_features
    1024
    """
    k = {layer.k for layer in transcoders.layers}
    one_k = len(k) == 1  # written to the config, where circuit-tracer looks for it
    config = SetConfig(
        model_name=transcoders.model_name,
        cross_layer=transcoders.is_cross_layer,
        read_point=transcoders.read_point,
        write_point=transcoders.write_point,
        scan=transcoders.scan,
        activation=_top_k(transcoders) if None not in k else "",
        k=next(iter(k)) if one_k else None,
    )
    _write(Path(target), config, (_tensors(layer, not one_k) for layer in transcoders.layers))


def _top_k(transcoders: TranscoderSet) -> str:
    return "relu_topk" if transcoders[0].rectified else "topk"


def _tensors(layer: Transcoder, with_k: bool) -> dict[str, Tensor]:
    def in_memory(matrix: Tensor | StoredRows) -> Tensor:
        return matrix.whole() if isinstance(matrix, StoredRows) else matrix

    tensors = {
        "W_enc": in_memory(layer.W_enc),
        "W_dec": in_memory(layer.W_dec),
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
    """Yield a new folder that is renamed to ``target`` at the end, or removed after an error."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise TranscoderError(f"{target} already exists: choose a new or empty folder")
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
