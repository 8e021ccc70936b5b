"""circuit-tracer's side of `attribution.py --peer`; run by it, in the peer's own environment.

    peer/bin/python benchmarks/peer_attribution.py FOLDER MAX_FEATURES RANK_EVERY THREADS BATCH…

Prints one JSON line: seconds per batch size, and the peak of the GPU's memory with ``--device
cuda``, else of the process. Leaves the graph in ``FOLDER/peer.safetensors``. Run by `gpu.py`, too.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "parity"))

from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from peer import peer_model
from safetensors.torch import save_file


def load_set(folder: Path, device: str) -> Any:
    """The transcoder set in ``folder``, all of it in memory."""
    options = {"device": torch.device(device), "lazy_encoder": False, "lazy_decoder": False}
    described = yaml.safe_load((folder / "config.yaml").read_text())
    hooks = described["feature_input_hook"], described["feature_output_hook"]
    if (folder / "W_enc_0.safetensors").exists():
        return load_clt(str(folder), *hooks, scan="bench", dtype=torch.float32, **options)
    n_layers = len(list(folder.glob("layer_*.safetensors")))
    paths = {i: str(folder / f"layer_{i}.safetensors") for i in range(n_layers)}
    return load_transcoder_set(paths, "bench", *hooks, **options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("max_features", type=int)
    parser.add_argument("rank_every", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("batches", type=int, nargs="+")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    folder, max_features, rank_every = options.folder, options.max_features, options.rank_every
    torch.set_num_threads(options.threads)
    transcoders = load_set(folder / "transcoders", options.device)
    model = peer_model(folder / "model", transcoders, options.device)
    ids = torch.tensor(json.loads((folder / "ids.json").read_text()), device=options.device)
    seconds = {}
    for batch in options.batches:
        start = time.perf_counter()
        graph = attribute(
            ids,
            model,
            max_n_logits=10,
            desired_logit_prob=0.95,
            batch_size=batch,
            update_interval=max(1, rank_every // batch),
            max_feature_nodes=max_features,
        )
        seconds[batch] = time.perf_counter() - start
    save_file(
        {
            "adjacency": graph.adjacency_matrix.cpu().contiguous(),
            "features": graph.active_features[graph.selected_features].cpu().contiguous(),
        },
        folder / "peer.safetensors",
    )
    if options.device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "peak_gib": peak}))
