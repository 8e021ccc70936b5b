"""Make the golden files of this folder with circuit-tracer, in an environment of its own.

    python -m venv peer && peer/bin/pip install circuit-tracer==0.5.0 "transformers<=4.57.3"
    python tests/parity/make_cases.py            # this project's environment: model and sets
    peer/bin/python tests/parity/make_golden.py  # the peer's: what it computes from them

The cases are a small random Llama and two transcoder sets for it, in the published layouts. For
each set the peer's whole graph (expanding all features, and the 40 most influential in steps), its
pruning and the logits of three kinds of interventions are kept in ``golden-<set>.safetensors``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.graph import compute_graph_scores, prune_graph
from circuit_tracer.replacement_model.replacement_model_transformerlens import (
    TransformerLensReplacementModel,
)
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_llama_weights
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
IDS = [1, 5, 11, 6, 34, 15]
MAX_FEATURES, RANK_EVERY = 40, 8
HOOKS = ("mlp.hook_in", "mlp.hook_out")


def peer_model(folder: Path, transcoders: Any) -> Any:
    """A Llama folder as the peer opens models: a HookedTransformer, weights unprocessed."""
    raw = json.loads((folder / "config.json").read_text())
    llama = LlamaConfig(
        **{
            key: raw[key]
            for key in (
                "vocab_size",
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "max_position_embeddings",
                "rms_norm_eps",
            )
        },
        rope_theta=raw["rope_parameters"]["rope_theta"],
    )
    hf_model = LlamaForCausalLM(llama)
    hf_model.load_state_dict(load_file(folder / "model.safetensors"))
    config = HookedTransformerConfig(
        n_layers=llama.num_hidden_layers,
        d_model=llama.hidden_size,
        n_ctx=llama.max_position_embeddings,
        d_head=llama.hidden_size // llama.num_attention_heads,
        n_heads=llama.num_attention_heads,
        n_key_value_heads=llama.num_key_value_heads,
        d_mlp=llama.intermediate_size,
        d_vocab=llama.vocab_size,
        act_fn="silu",
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_base=int(llama.rope_theta),
        rotary_dim=llama.hidden_size // llama.num_attention_heads,
        rotary_adjacent_pairs=False,
        gated_mlp=True,
        final_rms=True,
        eps=llama.rms_norm_eps,
        device="cpu",
        dtype=torch.float32,
        original_architecture="LlamaForCausalLM",
        tokenizer_prepends_bos=True,
        model_name="tiny",
        # lets `mlp.hook_in` exist
        use_hook_mlp_in=False,
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    model = TransformerLensReplacementModel(config)
    model.tokenizer = tokenizer
    model.load_state_dict(convert_llama_weights(hf_model, config), strict=False)
    ids = torch.tensor([IDS])  # any ids will do
    with torch.no_grad():
        difference = (model(ids) - hf_model(ids).logits).abs().max()
    assert difference < 1e-4, f"the weights did not carry over: {difference}"
    model._configure_replacement_model(transcoders)
    return model


def per_layer() -> Any:
    paths = {i: str(HERE / "per-layer" / f"layer_{i}.safetensors") for i in range(3)}
    return load_transcoder_set(
        paths, "tiny", *HOOKS, device=torch.device("cpu"), lazy_encoder=False, lazy_decoder=False
    )


def cross_layer() -> Any:
    return load_clt(
        str(HERE / "cross-layer"),
        *HOOKS,
        scan="tiny",
        dtype=torch.float32,
        device=torch.device("cpu"),
        lazy_decoder=False,
        lazy_encoder=False,
    )


def golden(model: Any) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    ids = torch.tensor(IDS)
    for name, limit in (("whole", None), ("some", MAX_FEATURES)):
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
    for name, options in (
        ("free", {"freeze_attention": False}),
        ("frozen", {"freeze_attention": True}),
        ("constrained", {"constrained_layers": range(3)}),
        ("constrained_some", {"constrained_layers": range(1, 3)}),
    ):
        logits, _ = model.feature_intervention(ids, edits, **options)
        found[f"logits.{name}"] = logits[0, -1]
    return {name: value.detach().contiguous() for name, value in found.items()}


if __name__ == "__main__":
    for name, load in (("per-layer", per_layer), ("cross-layer", cross_layer)):
        save_file(golden(peer_model(HERE / "model", load())), HERE / f"golden-{name}.safetensors")
        print(name)
