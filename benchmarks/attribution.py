"""How long one attribution takes on a random Gemma-2-shaped model.

    python benchmarks/attribution.py

12 layers, d_model 768, a random per-layer transcoder set with about 60 active features per token
and layer, 12 tokens, 4,096 features expanded. Seconds differ between machines: quote the share of
the float32 matrix rate beside them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def build(folder: Path, n_layers: int, d_model: int, n_features: int) -> tuple[Path, Path]:
    """The random model and transcoder folders, in the published layouts."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    vocabulary = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(2044))]
    model = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=len(vocabulary),
            hidden_size=d_model,
            intermediate_size=4 * d_model,
            num_hidden_layers=n_layers,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=d_model // 8,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=12)
    parser.add_argument("--max-features", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    import tracer

    with tempfile.TemporaryDirectory() as name:
        model_folder, transcoders = build(Path(name), 12, 768, 2048)
        model = tracer.load(str(model_folder), str(transcoders), device="cpu")
        ids = [1, *(int(i) for i in torch.randint(4, 2048, (options.positions - 1,)))]
        measure(model, ids, 64, 64)
        print(f"{'batch':>6} {'seconds':>9} {'active':>7} {'expanded':>9} {'edges':>10}")
        for batch_size in options.batch_size:
            runs = [
                measure(model, ids, options.max_features, batch_size) for _ in range(options.runs)
            ]
            graph = runs[-1][1]
            print(
                f"{batch_size:>6} {statistics.median(seconds for seconds, _ in runs):>9.2f} "
                f"{graph.n_active_features:>7} {graph.index.n_features:>9} {graph.n_edges:>10}"
            )


if __name__ == "__main__":
    main()
