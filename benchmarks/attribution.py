"""How long one attribution takes on a random model, alone or beside circuit-tracer.

    python benchmarks/attribution.py
    python benchmarks/attribution.py --peer peer/bin/python

A Llama-shaped model (12 layers, d_model 768, grouped queries), a random per-layer transcoder set
with about 60 active features per token and layer, 12 tokens, 4,096 features expanded. With
``--peer``, the Python of an environment that holds circuit-tracer 0.5.0 (see
`tests/parity/make_golden.py`), both attribute the same folders one after the other on as many
threads, and their graphs are compared. Quote ratios, not seconds.
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
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def build(folder: Path, n_layers: int, d_model: int, n_features: int) -> tuple[Path, Path]:
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
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "mlp.hook_out",
        "scan": "bench",
    }
    (transcoders / "config.yaml").write_text(yaml.safe_dump(config))
    for layer in range(n_layers):
        save_file(
            {
                "W_enc": torch.randn(n_features, d_model) / d_model**0.5,
                "b_enc": torch.full((n_features,), -1.895),
                "W_dec": torch.randn(n_features, d_model) / d_model**0.5 * 0.3,
                "b_dec": torch.zeros(d_model),
            },
            transcoders / f"layer_{layer}.safetensors",
        )
    return folder / "model", transcoders


def measure(model: Any, ids: list[int], max_features: int, batch_size: int) -> tuple[float, Any]:
    """Seconds of one trace, and its graph."""
    import tracer

    start = time.perf_counter()
    graph = tracer.trace(model, ids, max_features=max_features, batch_size=batch_size)
    return time.perf_counter() - start, graph


def compare(folder: Path, graph: Any, ours: float, options: argparse.Namespace) -> None:
    """Run the peer on the same folders and print ratios and the largest difference."""
    command = [options.peer, str(ROOT / "benchmarks" / "peer_attribution.py"), str(folder)]
    numbers = [options.max_features, 1024, options.threads, *options.peer_batch_size]
    answer = subprocess.run(
        [*command, *map(str, numbers)], check=True, stdout=subprocess.PIPE, text=True
    )
    peer = json.loads(answer.stdout.splitlines()[-1])
    for batch, seconds in peer["seconds"].items():
        print(f"circuit-tracer at batch {batch}: {seconds:.2f} s, {seconds / ours:.1f} times ours")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB, the peer's {peer['peak_gib']:.2f} GiB")
    theirs = load_file(folder / "peer.safetensors")
    same = (torch.tensor(graph.features) == theirs["features"]).all().item()
    worst = (graph.to_dense() - theirs["adjacency"]).abs().max() / theirs["adjacency"].abs().max()
    print(f"same features: {same}; largest difference of an edge, to the largest: {worst:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=12)
    parser.add_argument("--max-features", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peer", help="Python of an environment with circuit-tracer 0.5.0")
    parser.add_argument("--peer-batch-size", type=int, nargs="+", default=[256, 16])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    import tracer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_folder, transcoders = build(folder, 12, 768, 2048)
        model = tracer.load(str(model_folder), str(transcoders), device="cpu")
        ids = [1, *(int(i) for i in torch.randint(4, 2048, (options.positions - 1,)))]
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
        if options.peer:
            compare(folder, graph, medians.get(256, min(medians.values())), options)


if __name__ == "__main__":
    main()
