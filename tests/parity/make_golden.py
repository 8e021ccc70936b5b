"""Make the golden files of this folder with circuit-tracer, in a separate environment.

    python -m venv peer && peer/bin/pip install circuit-tracer==0.5.0 "transformers<=4.57.3"
    python tests/parity/make_cases.py FOLDER            # this project's: models and sets
    peer/bin/python tests/parity/make_golden.py FOLDER  # the peer's: what it computes from them

Each case of `cases.py` is a small random model with a transcoder set, in the published layouts.
``golden-<case>.safetensors`` has the peer's complete graph (of all features, and of the 40 most
influential in steps), its pruning, the logits of four kinds of interventions, and what it generates
under each.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from cases import CASES, IDS, LIMITS, MODES, N_GENERATED, RANK_EVERY, REACHES, Case, checksum
from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.graph import compute_graph_scores, prune_graph
from circuit_tracer.transcoder.activation_functions import TopK
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from golden_file import write
from peer import generated, peer_model
from safetensors.torch import load_file

HERE = Path(__file__).parent
K = 5
"""``k`` of the TopK sets, which the peer does not read from their config.yaml."""


def peer_transcoders(case: Case, folder: Path) -> Any:
    """Open the set in ``folder``, adding what the peer's reader ignores."""
    options = {"device": torch.device("cpu"), "lazy_encoder": False, "lazy_decoder": False}
    if case.kind == "cross-layer":
        transcoders = load_clt(
            str(folder), case.read, case.write, scan="tiny", dtype=torch.float32, **options
        )
        if case.skip:
            skips = [
                load_file(folder / f"W_enc_{i}.safetensors")[f"W_skip_{i}"].T for i in range(3)
            ]  # the peer multiplies from the other side here than in per-layer sets
            transcoders.W_skip = torch.nn.Parameter(torch.stack(skips))
            transcoders.skip_connection = True
        return transcoders
    paths = {i: str(folder / f"layer_{i}.safetensors") for i in range(3)}
    transcoders = load_transcoder_set(paths, "tiny", case.read, case.write, **options)
    if case.activation == "topk":
        for transcoder in transcoders:
            transcoder.activation_function = TopK(K)
    return transcoders


def golden(model: Any) -> dict[str, torch.Tensor]:
    results: dict[str, torch.Tensor] = {}
    ids = torch.tensor(IDS)
    for name, limit in LIMITS.items():
        graph = attribute(
            ids,
            model,
            max_n_logits=4,
            desired_logit_prob=0.95,
            batch_size=RANK_EVERY,
            update_interval=1,
            max_feature_nodes=limit,
        )
        results[f"{name}.adjacency"] = graph.adjacency_matrix
        results[f"{name}.features"] = graph.active_features[graph.selected_features]
        results[f"{name}.activations"] = graph.activation_values[graph.selected_features]
        results[f"{name}.logit_ids"] = torch.tensor([t.vocab_idx for t in graph.logit_targets])
        results[f"{name}.logit_probabilities"] = graph.logit_probabilities
        pruned = prune_graph(graph, 0.8, 0.98)
        results[f"{name}.node_mask"] = pruned.node_mask
        results[f"{name}.edge_mask"] = pruned.edge_mask
        results[f"{name}.cumulative"] = pruned.cumulative_scores
        results[f"{name}.scores"] = torch.tensor(compute_graph_scores(graph))
    rows = results["whole.features"]
    edits = [(*map(int, rows[i]), value) for i, value in ((3, 0.0), (20, 4.0), (-5, -2.0))]
    results["edits"] = torch.tensor(edits)
    for name, options in MODES.items():
        logits, _ = model.feature_intervention(ids, edits, **options)
        results[f"logits.{name}"] = logits[0, -1]
        for reach in REACHES:
            placed = edits
            if reach == "on":
                placed = [(e[0], slice(e[1], None), *e[2:]) for e in edits]
            tokens, logits = generated(model, ids, placed, N_GENERATED, options)
            results[f"generated.{name}.{reach}.ids"] = tokens
            results[f"generated.{name}.{reach}.logits"] = logits
    return {name: value.detach().contiguous() for name, value in results.items()}


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for name in sys.argv[2:] or CASES:
        case, folder, transcoders = CASES[name], root / name / "model", root / name / "transcoders"
        model = peer_model(folder, peer_transcoders(case, transcoders))
        path = HERE / f"golden-{name}.safetensors"
        write(path, golden(model), checksum([folder, transcoders]))
        print(name, path.stat().st_size)
