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

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "parity"))

from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from peer import peer_model
from safetensors.torch import save_file

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    max_features, rank_every, threads, *batches = map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    n_layers = len(list((folder / "transcoders").glob("layer_*.safetensors")))
    paths = {i: str(folder / "transcoders" / f"layer_{i}.safetensors") for i in range(n_layers)}
    transcoders = load_transcoder_set(
        paths,
        "bench",
        "mlp.hook_in",
        "mlp.hook_out",
        device=torch.device("cpu"),
        lazy_encoder=False,
        lazy_decoder=False,
    )
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
