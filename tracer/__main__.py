"""The command line: ``python -m tracer trace | prune | export | intervene``.

Exit code 0 on success, 2 with one line on standard error for anything a person can mend.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from tracer.errors import InterventionError, TargetError, TracerError
from tracer.types import Contrast, FeatureTarget, Intervention, TargetChoice


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    # Progress bars of libraries would land between a person and the one line they need.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        options.run(options)
    except TracerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tracer",
        description="Attribution graphs of language models: what the next token was made from.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    trace = commands.add_parser(
        "trace",
        help="trace a prompt and print its pruned graph",
        epilog='example: python -m tracer trace "The capital of the state containing Dallas is"',
    )
    _add_model_options(trace)
    trace.add_argument("prompt", help="the text whose next token is to be explained")
    trace.add_argument("--target", action="append", help="token to explain, e.g. ' Austin'")
    trace.add_argument(
        "--contrast",
        action="append",
        nargs=2,
        default=[],
        metavar=("A", "B"),
        help="explain the logit of token A minus that of B",
    )
    trace.add_argument(
        "--feature",
        action="append",
        default=[],
        metavar="LAYER:POSITION:FEATURE",
        help="explain this active feature instead of the output; position -1 is the last",
    )
    trace.add_argument("--max-logits", type=int, default=10, help="most logits to explain (10)")
    trace.add_argument("--logit-mass", type=float, default=0.95, help="probability to reach (0.95)")
    trace.add_argument("--max-features", type=int, help="expand at most this many features (all)")
    trace.add_argument(
        "--memory", type=float, metavar="GIB", help="most memory to use (what is free)"
    )
    trace.add_argument("--save", metavar="FILE", help="also save the whole graph to FILE")
    _add_pruning_options(trace)
    trace.set_defaults(run=_trace)

    prune = commands.add_parser("prune", help="print a saved graph at other thresholds")
    prune.add_argument("graph", help="a file written by 'trace --save'")
    _add_pruning_options(prune)
    prune.set_defaults(run=_prune)

    export = commands.add_parser(
        "export",
        help="write a saved graph, pruned, as JSON that other tools read",
        epilog="example: python -m tracer export dallas.safetensors dallas.json",
    )
    export.add_argument("graph", help="a file written by 'trace --save'")
    export.add_argument("file", help="where to: Neuronpedia's and circuit-tracer's form")
    export.add_argument("--slug", help="short name inside the file (the file's own)")
    _add_pruning_options(export)
    export.set_defaults(run=_export)

    intervene = commands.add_parser(
        "intervene",
        help="set features to other values and print what the model says",
        epilog='example: python -m tracer intervene "The opposite of small is" --set 3:-1:417=0',
    )
    _add_model_options(intervene)
    intervene.add_argument("prompt")
    intervene.add_argument(
        "--set",
        dest="edits",
        action="append",
        required=True,
        metavar="LAYER:POSITION:FEATURE=VALUE",
        help="set a feature to a value; position -1 is the last; may be given several times",
    )
    intervene.add_argument("--free-attention", action="store_true", help="let attention change too")
    intervene.add_argument("--generate", type=int, default=0, help="also continue by N tokens")
    intervene.add_argument("--json", action="store_true", help="print JSON")
    intervene.set_defaults(run=_intervene)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="atlas", help="atlas, or a Hugging Face folder (atlas)")
    parser.add_argument(
        "--transcoders", help="per-layer or cross-layer for atlas, else a folder (per-layer)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (auto)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))


def _add_pruning_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--node-threshold", type=float, default=0.8, help="0 to 1 (0.8)")
    parser.add_argument("--edge-threshold", type=float, default=0.98, help="0 to 1 (0.98)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _trace(options: argparse.Namespace) -> None:
    import tracer

    targets: list[TargetChoice] = [*(options.target or ())]
    targets += [Contrast(better, worse) for better, worse in options.contrast]
    targets += [_feature_target(text) for text in options.feature]
    model = tracer.load(options.model, options.transcoders, options.device, options.dtype)
    graph = tracer.trace(
        model,
        options.prompt,
        targets=targets or None,
        max_logits=options.max_logits,
        logit_mass=options.logit_mass,
        max_features=options.max_features,
        memory_limit=None if options.memory is None else int(options.memory * 2**30),
    )
    if options.save:
        try:
            graph.save(options.save)
        except OSError as error:
            raise TracerError(f"the graph cannot be saved to {options.save}: {error}") from error
    _print_pruned(graph, options, model.source.transcoder_folder)


def _prune(options: argparse.Namespace) -> None:
    import tracer

    graph = tracer.load_graph(options.graph)
    _print_pruned(graph, options, _transcoder_folder(graph))


def _export(options: argparse.Namespace) -> None:
    from pathlib import Path

    import tracer
    from tracer.exchange import shared_from_trace
    from tracer.published import write_graph_json

    graph = tracer.load_graph(options.graph)
    pruned = tracer.prune(graph, options.node_threshold, options.edge_threshold)
    names = _names(graph, pruned)
    target = Path(options.file)
    shared = shared_from_trace(pruned, options.slug or target.stem, names)
    try:
        size = len(write_graph_json(shared, target))
    except OSError as error:
        raise TracerError(f"the graph cannot be written to {target}: {error}") from error
    if options.json:
        report = {"nodes": len(shared.nodes), "links": len(shared.weights), "bytes": size}
        print(json.dumps(report))
    else:
        print(f"{len(shared.nodes)} nodes and {len(shared.weights)} links in {target}")


def _names(graph: Any, pruned: Any) -> dict[Any, str]:
    """What the kept features are called, where the graph's transcoders are still there."""
    from tracer.features import FeatureIndex

    folder = _transcoder_folder(graph)
    if folder is None:
        return {}
    index = FeatureIndex.open(folder)
    features = (node.feature for node in pruned.nodes if node.kind == "feature")
    return {feature: index.name(feature) for feature in features}


def _transcoder_folder(graph: Any) -> Any:
    """None where it is gone: labels are a courtesy, the graph stands without its model."""
    from tracer.sources import resolve

    try:
        made = graph.provenance
        return resolve(made["model"], made["transcoders"]).transcoder_folder
    except (KeyError, TracerError):
        return None


def _print_pruned(graph: Any, options: argparse.Namespace, transcoder_folder: Any) -> None:
    from tracer.features import FeatureIndex
    from tracer.pruning import prune
    from tracer.report import pruned_graph_report

    pruned = prune(graph, options.node_threshold, options.edge_threshold)
    index = FeatureIndex.open(transcoder_folder) if transcoder_folder else None
    report = pruned_graph_report(pruned, index)
    if options.json:
        print(json.dumps(report, ensure_ascii=False, indent=1))
        return
    print(f"{report['prompt']} …")
    for entry in report["next_tokens"][:5]:
        print(f"  {entry['probability']:6.1%}  {entry['token'].strip()}")
    print(
        f"{len(report['nodes'])} of {report['n_nodes_traced']} nodes and {len(report['edges'])} of "
        f"{report['n_edges_traced']} edges kept; replacement score "
        f"{report['replacement_score']:.2f}, completeness {report['completeness_score']:.2f}"
    )
    if report["rounding_error"]:
        print(f"bfloat16 moved {report['rounding_error']:.2%} of the edges' weight, by a sample")
    if report["dropped_weight"]:
        print(f"of each row at most {report['dropped_weight']:.2%} of its weight was left out")
    labels = {node["id"]: node["label"].strip() for node in report["nodes"]}
    for node in sorted(report["nodes"], key=lambda node: (-node["layer"], node["position"])):
        place = {"token": "token", "logit": "logit"}.get(node["kind"], f"layer {node['layer']}")
        inputs = sorted(
            (edge for edge in report["edges"] if edge["target"] == node["id"]),
            key=lambda edge: -abs(edge["weight"]),
        )[:3]
        made_of = ", ".join(f"{labels[edge['source']]} {edge['weight']:+.2f}" for edge in inputs)
        print(
            f"  {place:8} at {node['token'].strip():12} {labels[node['id']][:36]:36} "
            f"influence {node['influence']:.3f}" + (f"  ← {made_of}" if made_of else "")
        )


def _intervene(options: argparse.Namespace) -> None:
    import tracer
    from tracer.report import intervention_report

    edits = [_edit(text) for text in options.edits]
    model = tracer.load(options.model, options.transcoders, options.device, options.dtype)
    result = tracer.intervene(
        model,
        options.prompt,
        edits,
        freeze_attention=not options.free_attention,
        generate=options.generate,
    )
    report = intervention_report(result)
    if options.json:
        print(json.dumps(report, ensure_ascii=False, indent=1))
        return
    print(f"{report['prompt']} …   (KL {report['kl']:.3f} nats)")
    for change in report["changes"]:
        print(f"  {change['before']:6.1%} → {change['after']:6.1%}  {change['token'].strip()}")
    if options.generate:
        print(f"  before: {report['baseline_continuation']}")
        print(f"  after:  {report['edited_continuation']}")


def _feature_target(text: str) -> FeatureTarget:
    try:
        layer, position, feature = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise TargetError(
            f"--feature {text!r} is not LAYER:POSITION:FEATURE, for example 3:-1:417"
        ) from error
    return FeatureTarget(layer, position, feature)


def _edit(text: str) -> Intervention:
    place, equals, value = text.partition("=")
    parts = place.split(":")
    try:
        if not equals or len(parts) != 3:
            raise ValueError
        layer, position, feature = (int(part) for part in parts)
        return Intervention(layer, position, feature, float(value))
    except ValueError as error:
        raise InterventionError(
            f"--set {text!r} is not LAYER:POSITION:FEATURE=VALUE, for example 3:-1:417=0"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
