"""``models`` and ``convert``: what can be opened, what it takes, and getting it ready."""

from __future__ import annotations

import argparse
from typing import Any

from tracer import paths
from tracer.catalog.registry import KINDS, ListedModel, ListedSet, disk, memory, registry
from tracer.cli.options import Progress, Teaching, add_json, print_json
from tracer.errors import HubReferenceError, ModelError
from tracer.files import format_bytes
from tracer.transcoders.config import CONFIG


def add(commands: Any) -> None:
    """Add the two commands."""
    models = commands.add_parser(
        "models",
        help="list what can be opened by name and what it takes; download it",
        description="List the models and published transcoder sets that can be opened by name, "
        "with the memory\ntheir weights take (decoders left on disk), or download one of them.",
        epilog="""examples:
  python -m tracer models
  python -m tracer models --download gemma-2-2b --transcoders gemma-scope
  python -m tracer models --download lab/model --transcoders lab/transcoders/width_16k@v1

A list of your own adds to this one: a YAML file in the form of tracer/catalog/registry.yaml, where
CIRCUIT_MODELS points, or models.yaml in CIRCUIT_HOME (~/.cache/circuit-tracing). Gated models
want their licence accepted on the hub, and HF_TOKEN. CIRCUIT_OFFLINE=1 keeps off the network.
""",
        formatter_class=Teaching,
    )
    models.add_argument("--download", metavar="NAME", help="download this model and a set of it")
    models.add_argument("--transcoders", metavar="NAME", help="which set (the model's first)")
    models.add_argument(
        "--update",
        action="store_true",
        help="with --download: ask the hub again which commit the names stand for now",
    )
    add_json(models)
    models.set_defaults(run=_models)

    convert = commands.add_parser(
        "convert",
        help="rewrite a transcoder set so that it is read row by row",
        description="Rewrite a transcoder set of any published layout (Gemma Scope's .npz, Gemma "
        "Scope 2, …)\nas safetensors whose decoders can be left on disk. No bit of any number "
        "changes.",
        epilog="""examples:
  python -m tracer convert mntss/gemma-scope-transcoders gemma-scope
  python -m tracer trace --model gemma-2-2b --transcoders ./gemma-scope "The Eiffel Tower is in"
""",
        formatter_class=Teaching,
    )
    convert.add_argument("source", help="org/name[/folder][@revision] on the hub, or a folder")
    convert.add_argument("target", help="the folder to make")
    add_json(convert)
    convert.set_defaults(run=_convert)


def _models(options: argparse.Namespace) -> None:
    if options.download is not None:
        _download(options)
        return
    if options.update or options.transcoders is not None:
        alone = "--update" if options.update else "--transcoders"
        raise ModelError(f"{alone} says what to download: name the model with --download")
    listed = [(model, entry) for model in registry() for entry in model.sets]
    reports = [_report(model, entry) for model, entry in listed]
    if options.json:
        print_json(reports)
        return
    print(f"{'model':22}{'transcoders':14}{'kind':13}{'float32':>9}{'bfloat16':>9}{'disk':>9}")
    print(f"{'atlas':22}{'per-layer, cross-layer: embedded, nothing to download':62}")
    for report in reports:
        sizes = "".join(f"{_gb(report[key]):>9}" for key in ("float32", "bfloat16", "disk"))
        notes = [report["licence"] + ", gated" if report["gated"] else report["licence"]]
        notes += ["downloaded"] if report["downloaded"] else []
        print(
            f"{report['model']:22}{report['transcoders']:14}{report['kind']:13}{sizes}"
            f"  {', '.join(note for note in notes if note)}"
        )
    print("Memory of the weights, decoders left on disk where they can be; a prompt comes on top.")


def _report(model: ListedModel, entry: ListedSet) -> dict[str, Any]:
    from tracer import hub
    from tracer.catalog import downloads

    def here(reference: str, marker: str) -> bool:
        try:
            hub.Reference.parse(reference)
        except HubReferenceError:
            return paths.is_file(paths.expand_user(reference) / marker)
        return downloads.known(reference) is not None

    return {
        "model": model.name,
        "repository": model.reference,
        "transcoders": entry.name,
        "transcoder_repository": entry.reference,
        "kind": KINDS[entry.cross_layer],
        "gated": model.gated,
        "licence": model.licence,
        "examples": entry.examples,
        "float32": memory(model, entry, "float32").least,
        "bfloat16": memory(model, entry, "bfloat16").least,
        "disk": disk(model, entry).whole,
        "downloaded": here(model.reference, "config.json") and here(entry.reference, CONFIG),
        "own": model.own,
    }


def _gb(size: int | None) -> str:
    return "?" if size is None else format_bytes(size)


def _download(options: argparse.Namespace) -> None:
    from tracer.catalog.resolve import obtain

    with Progress() as progress:
        source = obtain(options.download, options.transcoders, progress.bytes, options.update)
    if options.json:
        print_json(
            {
                "model_folder": str(source.model_folder),
                "transcoder_folder": str(source.transcoder_folder),
                "revisions": dict(source.revisions),
                "fingerprint": source.fingerprint,
            }
        )
        return
    print(f"{source.name} with {source.transcoders} can be opened")
    for repository, commit in source.revisions.items():
        print(f"  {repository} at {commit}")


def _convert(options: argparse.Namespace) -> None:
    from tracer.catalog import downloads
    from tracer.transcoders.save import convert

    source, target = paths.expand_user(options.source), paths.expand_user(options.target)
    files = None
    with Progress() as progress:
        if not paths.is_file(source / CONFIG) and not options.source.startswith(("/", ".", "~")):
            known = downloads.known(options.source)
            if known is None or downloads.to_fetch(options.source):
                plan = downloads.plan_set(options.source, progress.bytes)
                (known,) = downloads.run([plan], progress.bytes)
            source, files = known.folder, known.files if known.listed else None
        n_layers = convert(source, target, files, progress.count)
    if options.json:
        print_json({"layers": n_layers, "folder": str(target)})
    else:
        print(f"{n_layers} layers in {target}")
