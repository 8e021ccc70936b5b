"""Check that circuit-tracer reads the same numbers from every layout and from converted sets.

    python tests/parity/peer_layouts.py write FOLDER        # with this project's environment
    python tests/parity/peer_layouts.py compare FOLDER      # with circuit-tracer 0.5.0's

The first command writes a set in every layout, the same sets converted, and the tensors that this
project reads from them. The second has circuit-tracer read them and prints, per layout, the number
of tensors and which differ in any bit. circuit-tracer cannot read TopK sets with ``k`` as a tensor,
or stacked files.
"""

from __future__ import annotations

import sys
from pathlib import Path

N_LAYERS, D_MODEL = 3, 32
NAMES = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold", "W_skip")
EXPECTED = "expected.safetensors"


def write(folder: Path) -> None:
    here = Path(__file__).resolve()
    sys.path[:0] = [str(here.parents[1] / "stand_ins"), str(here.parents[2])]
    from published_layouts import LAYOUTS
    from safetensors.torch import save_file

    from tracer.transcoders.load import load_transcoders
    from tracer.transcoders.save import convert

    for name, make in LAYOUTS.items():
        plain, converted = folder / name, folder / f"{name}, converted"
        make(plain)
        convert(plain, converted)
        read = {
            f"{tensor}.{layer.layer}": value.contiguous().clone()
            for layer in load_transcoders(plain, N_LAYERS, D_MODEL).layers
            for tensor in NAMES
            if (value := getattr(layer, tensor)) is not None
        }
        for target in (plain, converted):
            save_file(read, target / EXPECTED)


def compare(folder: Path) -> None:
    import torch
    import yaml
    from safetensors.torch import load_file

    for layout in sorted(path for path in folder.iterdir() if (path / EXPECTED).exists()):
        config = yaml.safe_load((layout / "config.yaml").read_text())
        expected = load_file(layout / EXPECTED)
        try:
            read = _peer_tensors(layout, config)
        except (RuntimeError, OSError, AssertionError, IndexError) as error:
            print(f"{layout.name:48} not read: {str(error).splitlines()[0]}")
            continue
        differ = [k for k, v in read.items() if not torch.equal(expected[k].view(v.shape), v)]
        print(f"{layout.name:48} {len(read)} tensors, differing: {differ or 'none'}")


def _peer_tensors(folder: Path, config: dict) -> dict:
    import torch
    from circuit_tracer.transcoder import cross_layer_transcoder, single_layer_transcoder

    device = torch.device("cpu")
    listed = config.get("transcoders")
    beside = [f"layer_{layer}.safetensors" for layer in range(N_LAYERS)]
    paths = {layer: str(folder / path) for layer, path in enumerate(listed or beside)}
    if config["model_kind"] == "transcoder_set":
        special = None
        if listed and "Gemma Scope" in folder.name:
            special = "gemma-scope-2" if "Scope 2" in folder.name else "gemma-scope"
        layers = single_layer_transcoder.load_transcoder_set(
            paths, "", "mlp.hook_in", "mlp.hook_out", device, special_load_fn=special,
            lazy_encoder=False, lazy_decoder=False,
        )  # fmt: skip
        tensors = {}
        for number, layer in enumerate(layers):
            values = {name: getattr(layer, name, None) for name in NAMES}
            values["threshold"] = getattr(layer.activation_function, "threshold", None)
            tensors |= {f"{k}.{number}": v.data for k, v in values.items() if v is not None}
        return tensors
    if listed:
        paths[N_LAYERS] = paths[N_LAYERS - 1]  # it ignores the last of its paths
        read = cross_layer_transcoder.load_gemma_scope_2_clt(
            paths, device=device, dtype=torch.float32
        )
    else:
        read = cross_layer_transcoder.load_clt(
            str(folder), device=device, dtype=torch.float32, lazy_decoder=False, lazy_encoder=False
        )
    tensors = {}
    for number in range(N_LAYERS):
        tensors |= {f"{k}.{number}": getattr(read, k)[number].data for k in NAMES[:4]}
        tensors[f"threshold.{number}"] = read.activation_function.threshold[number, 0].data
        if read.W_skip is not None:  # multiplied from the other side
            tensors[f"W_skip.{number}"] = read.W_skip[number].data.T
    return tensors


if __name__ == "__main__":
    {"write": write, "compare": compare}[sys.argv[1]](Path(sys.argv[2]))
