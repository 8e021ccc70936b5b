"""How long one attribution takes on a random model, alone or next to circuit-tracer.

    python benchmarks/attribution.py
    python benchmarks/attribution.py --peer peer/bin/python
    python benchmarks/attribution.py --peer peer/bin/python --cross-layer
    python benchmarks/attribution.py --peer peer/bin/python --positions 64
    python benchmarks/attribution.py --bfloat16 --d-model 2304 --layers 8

A Llama-shaped model (12 layers, d_model 768, grouped queries), a random per-layer transcoder set
with about 60 active features per token and layer, 12 tokens, 4,096 features expanded. With
``--peer``, the Python of an environment that holds circuit-tracer 0.5.0 (see
`tests/parity/make_golden.py`), both attribute the same folders one after the other on as many
threads, and their graphs are compared. The share of the matrix rate is what the products of the
run would take at the speed of one large product, by what the run took. Quote ratios, not seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def build(
    folder: Path, n_layers: int, d_model: int, n_features: int, cross_layer: bool = False
) -> tuple[Path, Path]:
    """The random model and transcoder folders, in the published layouts."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    vocabulary = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(2044))]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=d_model,
            intermediate_size=4 * d_model,
            num_hidden_layers=n_layers,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=4096,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    model.save_pretrained(folder / "model")
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
    ).save_pretrained(folder / "model")
    transcoders = folder / "transcoders"
    transcoders.mkdir()
    config = {
        "model_name": "bench",
        "model_kind": "cross_layer_transcoder" if cross_layer else "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "mlp.hook_out",
        "scan": "bench",
    }
    (transcoders / "config.yaml").write_text(yaml.safe_dump(config))
    for layer in range(n_layers):
        outputs = (n_layers - layer,) if cross_layer else ()
        size = 0.3 / (d_model * (n_layers / 2 if cross_layer else 1)) ** 0.5
        tensors = {
            "W_enc": torch.randn(n_features, d_model) / d_model**0.5,
            "b_enc": torch.full((n_features,), -1.895),
            "b_dec": torch.zeros(d_model),
        }
        W_dec = torch.randn(n_features, *outputs, d_model) * size
        if cross_layer:
            named = {f"{name}_{layer}": tensor for name, tensor in tensors.items()}
            save_file(named, transcoders / f"W_enc_{layer}.safetensors")
            save_file({f"W_dec_{layer}": W_dec}, transcoders / f"W_dec_{layer}.safetensors")
        else:
            save_file({**tensors, "W_dec": W_dec}, transcoders / f"layer_{layer}.safetensors")
    return folder / "model", transcoders


def measure(model: Any, ids: list[int], max_features: int, batch_size: int) -> tuple[float, Any]:
    """Seconds of one trace, and its graph."""
    import tracer

    start = time.perf_counter()
    graph = tracer.trace(model, ids, max_features=max_features, batch_size=batch_size)
    return time.perf_counter() - start, graph


def matrix_share(model: Any, ids: list[int], options: argparse.Namespace, seconds: float) -> float:
    """Share of the time that the run's products would need at the rate of one large product."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        measure(model, ids, options.max_features, 256)
    left = torch.randn(4096, 1024, dtype=model.bridge.dtype)
    right = torch.randn(1024, 1024, dtype=model.bridge.dtype)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    rate = 2 * left.shape[0] * left.shape[1] * right.shape[1] / statistics.median(times)
    return float(counter.get_total_flops()) / rate / seconds


def bfloat16_beside_float32(folders: tuple[Path, Path], ids: list[int], options: Any) -> None:
    """Both types in turn on the same prompt: the ratio, and the error the graph reports."""
    import tracer

    medians = {}
    for dtype in ("float32", "bfloat16"):
        model = tracer.load(*map(str, folders), device="cpu", dtype=dtype)
        measure(model, ids, options.max_features, 256)
        runs = [measure(model, ids, options.max_features, 256) for _ in range(options.runs)]
        medians[dtype] = statistics.median(seconds for seconds, _ in runs)
        print(f"{dtype}: {medians[dtype]:.2f} s, rounding error {runs[-1][1].rounding_error:.1e}")
    print(f"bfloat16 is {medians['float32'] / medians['bfloat16']:.1f} times as fast")


def compare(
    folder: Path, graph: Any, ours: float, peak: float, options: argparse.Namespace
) -> None:
    """Run the peer on the same folders and print ratios and the largest difference."""
    command = [options.peer, str(ROOT / "benchmarks" / "peer_attribution.py"), str(folder)]
    numbers = [options.max_features, 1024, options.threads, *options.peer_batch_size]
    answer = subprocess.run(
        [*command, *map(str, numbers)], check=True, stdout=subprocess.PIPE, text=True
    )
    peer = json.loads(answer.stdout.splitlines()[-1])
    for batch, seconds in peer["seconds"].items():
        print(f"circuit-tracer at batch {batch}: {seconds:.2f} s, {seconds / ours:.1f} times ours")
    print(f"peak memory {peak:.2f} GiB, the peer's {peer['peak_gib']:.2f} GiB")
    theirs = load_file(folder / "peer.safetensors")
    same = (torch.tensor(graph.features) == theirs["features"]).all().item()
    worst = (graph.to_dense() - theirs["adjacency"]).abs().max() / theirs["adjacency"].abs().max()
    print(f"same features: {same}; largest difference of an edge, to the largest: {worst:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=12)
    parser.add_argument("--max-features", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--cross-layer", action="store_true")
    parser.add_argument("--bfloat16", action="store_true", help="compare both types instead")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[256])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peer", help="Python of an environment with circuit-tracer 0.5.0")
    parser.add_argument("--peer-batch-size", type=int, nargs="+", default=[256, 16])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    import tracer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = (options.layers, options.d_model, options.features, options.cross_layer)
        # In a process of its own, so that its memory does not count as the attribution's.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            folders = pool.submit(build, folder, *shape).result()
        torch.manual_seed(0)
        ids = [1, *(int(i) for i in torch.randint(4, 2048, (options.positions - 1,)))]
        if options.bfloat16:
            bfloat16_beside_float32(folders, ids, options)
            return
        model = tracer.load(*map(str, folders), device="cpu")
        (folder / "ids.json").write_text(json.dumps(ids))
        measure(model, ids, 64, 64)
        medians = {}
        print(f"{'batch':>6} {'seconds':>9} {'active':>7} {'expanded':>9} {'edges':>10}")
        for batch_size in options.batch_size:
            runs = [
                measure(model, ids, options.max_features, batch_size) for _ in range(options.runs)
            ]
            graph = runs[-1][1]
            medians[batch_size] = statistics.median(seconds for seconds, _ in runs)
            print(
                f"{batch_size:>6} {medians[batch_size]:>9.2f} "
                f"{graph.n_active_features:>7} {graph.index.n_features:>9} {graph.n_edges:>10}"
            )
        best, peak = min(medians.values()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        share = matrix_share(model, ids, options, best)
        print(f"{share:.0%} of the rate of one large matrix product")
        if options.peer:
            compare(folder, graph, medians.get(256, best), peak / 2**20, options)


if __name__ == "__main__":
    main()
