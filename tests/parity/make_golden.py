"""Make the golden files of this folder with circuit-tracer, in an environment of its own.

    python -m venv peer && peer/bin/pip install circuit-tracer==0.5.0 "transformers<=4.57.3"
    python tests/parity/make_cases.py FOLDER            # this project's: models and sets
    peer/bin/python tests/parity/make_golden.py FOLDER  # the peer's: what it computes from them

Each case of `cases.py` is a small random model with a transcoder set, in the published layouts.
The peer's whole graph (expanding all features, and the 40 most influential in steps), its pruning,
the logits of four kinds of interventions and what it generates under each are kept in
``golden-<case>.safetensors``.
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
"""Of the top-k sets; the peer does not read it from their config.yaml."""


def peer_transcoders(case: Case, folder: Path) -> Any:
    """The set in ``folder``; what the peer's reader passes over is put in by hand."""
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
    found: dict[str, torch.Tensor] = {}
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
        found[f"{name}.adjacency"] = graph.adjacency_matrix
        found[f"{name}.features"] = graph.active_features[graph.selected_features]
        found[f"{name}.activations"] = graph.activation_values[graph.selected_features]
        found[f"{name}.logit_ids"] = torch.tensor([t.vocab_idx for t in graph.logit_targets])
        found[f"{name}.logit_probabilities"] = graph.logit_probabilities
        pruned = prune_graph(graph, 0.8, 0.98)
        found[f"{name}.node_mask"] = pruned.node_mask
        found[f"{name}.edge_mask"] = pruned.edge_mask
        found[f"{name}.cumulative"] = pruned.cumulative_scores
        found[f"{name}.scores"] = torch.tensor(compute_graph_scores(graph))
    rows = found["whole.features"]
    edits = [(*map(int, rows[i]), value) for i, value in ((3, 0.0), (20, 4.0), (-5, -2.0))]
    found["edits"] = torch.tensor(edits)
    for name, options in MODES.items():
        logits, _ = model.feature_intervention(ids, edits, **options)
        found[f"logits.{name}"] = logits[0, -1]
        for reach in REACHES:
            held = (
                edits if reach == "prompt" else [(e[0], slice(e[1], None), *e[2:]) for e in edits]
            )
            said, logits = generated(model, ids, held, N_GENERATED, options)
            found[f"generated.{name}.{reach}.ids"] = said
            found[f"generated.{name}.{reach}.logits"] = logits
    return {name: value.detach().contiguous() for name, value in found.items()}


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for name in sys.argv[2:] or CASES:
        case, folder, transcoders = CASES[name], root / name / "model", root / name / "transcoders"
        model = peer_model(folder, peer_transcoders(case, transcoders))
        path = HERE / f"golden-{name}.safetensors"
        write(path, golden(model), checksum([folder, transcoders]))
        print(name, path.stat().st_size)
