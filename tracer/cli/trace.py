"""``trace``, ``prune`` and ``export``: compute graphs, read them again, and convert them."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.catalog.resolve import resolve
from tracer.cli.many import trace_file
from tracer.cli.options import (
    add_chat_option,
    add_command,
    add_json,
    add_memory_option,
    add_model_options,
    add_pruning_options,
    open_graph,
    open_model,
    print_json,
    prompt_of,
    write_error,
)
from tracer.errors import FeatureIndexError, PromptError, TargetError, TracerError
from tracer.features.lookup import (
    FeatureLookup,
    feature_lookup,
    published_lookup,
)
from tracer.hub import network_allowed
from tracer.interchange.nodes import explained_by, stored_labels
from tracer.progress import progress_bar
from tracer.types import Contrast, FeatureId, FeatureTarget, TargetChoice, Thresholds

if TYPE_CHECKING:
    from tracer.features.cards import FeatureReader
    from tracer.graph.graph import AttributionGraph
    from tracer.graph.pruning import PrunedGraph

_GRAPH = "a file of 'trace --save', a published .json, or circuit-tracer's .pt"


def add(commands: Any) -> None:
    """Add the three commands."""
    trace = add_command(
        commands,
        "trace",
        summary="trace a prompt and print its pruned graph",
        description="Compute the attribution graph of a prompt: which transcoder features directly "
        "affect which others\nand the next token. Print the part that carries most of the "
        "influence.",
        examples="""\
  python -m tracer trace "The capital of the state containing Dallas is"
  python -m tracer trace --prompts prompts.csv --summary results.parquet
  python -m tracer trace --contrast " Austin" " Sacramento" "The capital of Texas is"
  python -m tracer trace --model gemma-2-2b --transcoders clt-426k --dtype bfloat16 \\
      --max-features 4096 --save dallas.safetensors "The capital of the state containing Dallas is"
  python -m tracer trace --model gemma-3-1b-it --chat "What is the capital of Texas?"

The options of circuit-tracer's `attribute` are understood too: see "Coming from circuit-tracer" in
docs/.
""",
    )
    trace.add_argument("prompt", nargs="?", help="the text whose next token to explain")
    trace.add_argument(
        "--prompts",
        metavar="FILE",
        help="trace every prompt of a .csv or .jsonl file (prompt or messages, label, target) "
        "into the store instead; the same command goes on after an interruption",
    )
    trace.add_argument(
        "--summary",
        metavar="FILE",
        help="with --prompts: also write a table of the results, .csv or .parquet",
    )
    trace.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="with --prompts: trace on a Ray cluster, for example ray://head:10001; local for this "
        "machine",
    )
    add_chat_option(trace)
    trace.add_argument(
        "--force",
        action="store_true",
        help="trace text as it is, although the transcoders were trained on chats only",
    )
    trace.add_argument(
        "--target",
        action="append",
        metavar="TOKEN",
        help="explain this token, for example ' Austin'; can be repeated",
    )
    trace.add_argument(
        "--contrast",
        action="append",
        nargs=2,
        default=[],
        metavar=("A", "B"),
        help="explain the logit of token A minus the logit of token B",
    )
    trace.add_argument(
        "--feature",
        action="append",
        default=[],
        metavar="LAYER:POSITION:FEATURE",
        help="explain this active feature instead of the output; position -1 is the last",
    )
    trace.add_argument(
        "--max-logits",
        type=int,
        default=10,
        metavar="N",
        help="explain at most N logits (default: 10)",
    )
    trace.add_argument(
        "--logit-mass",
        type=float,
        default=0.95,
        metavar="SHARE",
        help="explain the fewest tokens that reach this probability together (default: 0.95)",
    )
    trace.add_argument(
        "--max-features",
        type=int,
        metavar="N",
        help="compute the inputs of only the N most influential features (default: all)",
    )
    add_memory_option(trace)
    trace.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="compute N rows of the graph at a time; changes only the speed",
    )
    trace.add_argument(
        "--offload",
        choices=("cpu", "disk"),
        help="keep weights that a step does not need on the CPU; disk also reads the transcoders "
        "from their files",
    )
    trace.add_argument("--save", metavar="FILE", help="also save the complete graph to FILE")
    add_pruning_options(trace)
    add_model_options(trace)
    trace.set_defaults(run=_trace)

    prune = add_command(
        commands,
        "prune",
        summary="print a saved graph at other thresholds",
        description="Print the part of a saved graph that carries the given shares of the "
        "influence.\nNothing is traced again.",
        examples="  python -m tracer prune dallas.safetensors --node-threshold 0.6",
    )
    prune.add_argument("graph", help=_GRAPH)
    add_pruning_options(prune)
    prune.set_defaults(run=_prune)

    export = add_command(
        commands,
        "export",
        summary="write a graph as JSON that other tools read",
        description="Write a graph in the form that Neuronpedia, circuit-tracer and Anthropic's "
        "frontend open,\nwith the labels of features that have one. Published JSON is written as "
        "it was read, pins,\nsupernodes and unknown keys included; it is pruned only when a "
        "threshold is given.",
        examples="""  python -m tracer export dallas.safetensors dallas.json
  python -m tracer export published.json smaller.json --node-threshold 0.6
  python -m tracer export dallas.safetensors dallas.json \\
      --marks "https://www.neuronpedia.org/gemma-2-2b/graph?slug=dallas&pinnedIds=…"
""",
    )
    export.add_argument("graph", help=_GRAPH)
    export.add_argument("file", help="the JSON file to write")
    export.add_argument(
        "--slug",
        help="short name inside the file (default: a published graph's own, else FILE's name)",
    )
    export.add_argument(
        "--node-threshold",
        type=float,
        help="share of the influence that the kept nodes carry, 0 to 1 (0.8 for a complete graph; "
        "a graph that is pruned already keeps all)",
    )
    export.add_argument(
        "--edge-threshold",
        type=float,
        help="share of what flows into them that the kept edges carry, 0 to 1 (0.98, likewise)",
    )
    export.add_argument(
        "--marks",
        metavar="LINK",
        help="also write the pins, supernodes and labels of a link that was copied from "
        "Neuronpedia or circuit-tracer",
    )
    add_json(export)
    export.set_defaults(run=_export)


def _trace(options: argparse.Namespace) -> None:
    import tracer

    if options.prompts is not None:
        trace_file(options)
        return
    if options.prompt is None:
        raise PromptError("the prompt is missing: write it as the last argument, or use --prompts")
    targets: list[TargetChoice] = [*(options.target or ())]
    targets += [Contrast(better, worse) for better, worse in options.contrast]
    targets += [_feature_target(text) for text in options.feature]
    if options.save and Path(options.save).suffix in (".pt", ".json"):
        raise TracerError(
            f"--save {options.save} would not be a {Path(options.save).suffix} file: a graph is "
            "saved as safetensors; name it so, and use 'export' for JSON"
        )
    model = open_model(options)
    with progress_bar() as progress:
        graph = tracer.trace(
            model,
            prompt_of(options),
            targets=targets or None,
            max_logits=options.max_logits,
            logit_mass=options.logit_mass,
            max_features=options.max_features,
            batch_size=options.batch_size,
            memory_limit=options.memory,
            offload=options.offload is not None,
            force=options.force,
            progress=progress,
        )
    if options.save:
        try:
            graph.save(options.save)
        except OSError as error:
            raise write_error(options.save, error) from error
    _print_pruned(graph, options)


def _prune(options: argparse.Namespace) -> None:
    _print_pruned(open_graph(options.graph), options)


def _export(options: argparse.Namespace) -> None:
    import tracer
    from tracer.interchange.export import exported_file, exported_graph
    from tracer.interchange.graph_json import write_graph_json
    from tracer.interchange.labels import with_labels
    from tracer.interchange.links import add_marks, link_marks, marks_sentence, read_link
    from tracer.interchange.marks import external_annotations
    from tracer.interchange.notes import import_notes

    link = read_link(options.marks) if options.marks is not None else None
    target, thresholds = Path(options.file), _thresholds(options)
    if Path(options.graph).suffix == ".json":
        external = tracer.read_graph_json(options.graph)
        graph = tracer.graph_from_external(external)
        marks = link_marks(link, graph) if link else None
        if marks is None:
            external = exported_file(external, thresholds=thresholds, slug=options.slug)
        else:
            both = add_marks(*external_annotations(external), marks)
            external = exported_file(external, both, thresholds, options.slug)
            external = with_labels(external, marks.labels)
    else:
        graph = open_graph(options.graph)
        slug = options.slug or target.stem
        marks = link_marks(link, graph) if link else None
        pins = (marks.pinned, marks.supernodes) if marks else ((), ())
        labels = marks.labels if marks else {}
        external = exported_graph(
            graph, slug, pins, thresholds, lambda pruned: {**_labels(pruned), **labels}
        )
    try:
        size = len(write_graph_json(external, target))
    except OSError as error:
        raise write_error(options.file, error) from error
    n_links = len(external.links) or len(external.weights)
    notes = (*import_notes(graph), *([marks_sentence(marks)] if marks else []))
    if options.json:
        counts = {"nodes": len(external.nodes), "links": n_links, "bytes": size}
        print_json({**counts, "notes": notes})
    else:
        print(f"{len(external.nodes)} nodes and {n_links} links in {target}")
        print("".join(f"{note}\n" for note in notes), end="", file=sys.stderr)


def _thresholds(options: argparse.Namespace) -> Thresholds | None:
    """Return the given thresholds, the default for one that is not given; None without any."""
    node, edge = options.node_threshold, options.edge_threshold
    if node is None and edge is None:
        return None
    default = Thresholds()
    return Thresholds(
        default.node if node is None else node, default.edge if edge is None else edge
    )


def _labels(pruned: PrunedGraph) -> dict[FeatureId, str]:
    """Return the labels of the kept features that have one.

    A label that cannot be fetched is not an error: the reason is printed to stderr.
    """
    labels = stored_labels(pruned.graph)
    features = {node.feature for node in pruned.nodes if node.kind == "feature"}
    unlabelled = sorted(features - labels.keys())
    reader: FeatureReader | None = None
    try:
        reader = _reader(pruned.graph)
        if isinstance(reader, FeatureLookup) and network_allowed():
            with progress_bar() as progress:
                reader.fetch_many(unlabelled, progress)
    except TracerError as error:
        print(f"some labels are missing: {error}", file=sys.stderr)
    if reader is not None:
        for feature in unlabelled:
            with suppress(FeatureIndexError):  # the first one has been reported
                labels[feature] = reader.cached_name(feature)
    return labels


def _reader(graph: AttributionGraph) -> FeatureReader | None:
    """Return a reader of the features' examples; None if the transcoders are not available."""
    provenance = graph.provenance
    if {"model", "transcoders"} <= provenance.keys():
        try:
            source = resolve(str(provenance["model"]), str(provenance["transcoders"]))
        except TracerError:
            return None  # a graph can be read without them
        return feature_lookup(source)
    published = explained_by(provenance)
    return published_lookup(published) if published else None


def _print_pruned(graph: AttributionGraph, options: argparse.Namespace) -> None:
    from tracer.cli.report import pruned_graph_report
    from tracer.graph.pruning import prune

    pruned = prune(graph, options.node_threshold, options.edge_threshold)
    report = pruned_graph_report(pruned, _labels(pruned))
    if options.json:
        print_json(report)
        return
    print(f"{report['prompt']} …")
    for entry in report["next_tokens"][:5]:
        print(f"  {entry['probability']:6.1%}  {entry['token'].strip()}")
    print(
        f"{len(report['nodes'])} of {report['n_nodes_traced']} nodes and {len(report['edges'])} of "
        f"{report['n_edges_traced']} edges kept; replacement score "
        f"{report['replacement_score']:.2f}, completeness {report['completeness_score']:.2f}"
    )
    for note in report["notes"]:
        print(note)
    provenance = report["provenance"]
    if "device" in provenance:
        print(f"computed on {provenance['device']} in {provenance['dtype']}")
    if report["rounding_error"] is None:
        print("effect of reduced precision not measured: no memory left for the reference")
    elif report["rounding_error"]:
        print(
            f"reduced precision moved {report['rounding_error']:.2%} of the edges' weight, "
            "measured on a sample of rows"
        )
    if report["dropped_weight"]:
        print(f"weak edges left out: at most {report['dropped_weight']:.2%} of a row's weight")
    labels = {node["id"]: node["label"].strip() for node in report["nodes"]}
    for node in sorted(report["nodes"], key=lambda node: (-node["layer"], node["position"])):
        place = {"token": "token", "logit": "logit"}.get(node["kind"], f"layer {node['layer']}")
        inputs = sorted(
            (edge for edge in report["edges"] if edge["target"] == node["id"]),
            key=lambda edge: -abs(edge["weight"]),
        )[:3]
        strongest = ", ".join(f"{labels[edge['source']]} {edge['weight']:+.2f}" for edge in inputs)
        print(
            f"  {place:8} at {node['token'].strip():12} {labels[node['id']][:36]:36} "
            f"influence {node['influence']:.3f}" + (f"  ← {strongest}" if strongest else "")
        )


def _feature_target(text: str) -> FeatureTarget:
    """Parse one ``--feature``.

    >>> _feature_target("3:-1:417")
    FeatureTarget(layer=3, position=-1, feature=417, weight=1.0)
    """
    try:
        layer, position, feature = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise TargetError(
            f"--feature {text!r} is not LAYER:POSITION:FEATURE, for example 3:-1:417"
        ) from error
    return FeatureTarget(layer, position, feature)
