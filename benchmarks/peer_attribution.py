"""circuit-tracer's side of `attribution.py --peer`; run by it, in the peer's own environment.

    peer/bin/python benchmarks/peer_attribution.py FOLDER MAX_FEATURES RANK_EVERY THREADS BATCH…

Prints one JSON line: seconds per batch size. Leaves the graph in ``FOLDER/peer.safetensors``.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "parity"))

from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from peer import peer_model
from safetensors.torch import save_file


def load_set(folder: Path) -> Any:
    """The transcoder set in ``folder``, all of it in memory."""
    options = {"device": torch.device("cpu"), "lazy_encoder": False, "lazy_decoder": False}
    hooks = ("mlp.hook_in", "mlp.hook_out")
    if (folder / "W_enc_0.safetensors").exists():
        return load_clt(str(folder), *hooks, scan="bench", dtype=torch.float32, **options)
    n_layers = len(list(folder.glob("layer_*.safetensors")))
    paths = {i: str(folder / f"layer_{i}.safetensors") for i in range(n_layers)}
    return load_transcoder_set(paths, "bench", *hooks, **options)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    max_features, rank_every, threads, *batches = map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    transcoders = load_set(folder / "transcoders")
    model = peer_model(folder / "model", transcoders)
    ids = torch.tensor(json.loads((folder / "ids.json").read_text()))
    seconds = {}
    for batch in batches:
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
            "adjacency": graph.adjacency_matrix.contiguous(),
            "features": graph.active_features[graph.selected_features].contiguous(),
        },
        folder / "peer.safetensors",
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "peak_gib": peak}))
