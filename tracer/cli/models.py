"""``models`` and ``convert``: list and download models, and rewrite transcoder sets."""

from __future__ import annotations

import argparse
from typing import Any

from tracer import paths
from tracer.catalog.embedded import EMBEDDED_SETS, installed
from tracer.catalog.registry import KINDS, ListedModel, ListedSet, disk, memory, registry
from tracer.cli.options import add_command, add_json, print_json
from tracer.errors import HubReferenceError, ModelError
from tracer.files import format_bytes
from tracer.progress import progress_bar
from tracer.transcoders.config import CONFIG
from tracer.transcoders.other_tools import is_set


def add(commands: Any) -> None:
    """Add the two commands."""
    models = add_command(
        commands,
        "models",
        summary="list the models that can be opened by name, or download one",
        description="List the models and published transcoder sets that can be opened by name, "
        "with the memory\nof their weights (decoders left on disk), or download one of them.",
        examples="""\
  python -m tracer models
  python -m tracer models --download gemma-2-2b --transcoders gemma-scope
  python -m tracer models --download lab/model --transcoders lab/transcoders/width_16k@v1

Your own list adds to this one: a YAML file in the form of tracer/catalog/registry.yaml, at the path
in CIRCUIT_MODELS, or models.yaml in CIRCUIT_HOME (~/.cache/circuit-tracing). For a gated model,
accept its licence on the Hugging Face Hub and set HF_TOKEN. CIRCUIT_OFFLINE=1 switches the network
off.""",
    )
    models.add_argument(
        "--download", metavar="NAME", help="download this model and one of its transcoder sets"
    )
    models.add_argument(
        "--transcoders", metavar="NAME", help="the set to download (default: the model's first)"
    )
    models.add_argument(
        "--update",
        action="store_true",
        help="with --download: ask the Hub which commit each name refers to now",
    )
    add_json(models)
    models.set_defaults(run=_models)

    convert = add_command(
        commands,
        "convert",
        summary="rewrite a transcoder set so that it can be read row by row",
        description="Rewrite a transcoder set of any published layout (Gemma Scope's .npz, Gemma "
        "Scope 2, …) as\nsafetensors whose decoders can stay on disk. Every number stays the same, "
        "bit for bit.",
        examples="""\
  python -m tracer convert mntss/gemma-scope-transcoders gemma-scope
  python -m tracer trace --model gemma-2-2b --transcoders ./gemma-scope "The Eiffel Tower is in"
""",
    )
    convert.add_argument("source", help="org/name[/folder][@revision] on the Hub, or a folder")
    convert.add_argument("target", help="the folder to create")
    add_json(convert)
    convert.set_defaults(run=_convert)


def _models(options: argparse.Namespace) -> None:
    if options.download is not None:
        _download(options)
        return
    if options.update or options.transcoders is not None:
        option = "--update" if options.update else "--transcoders"
        raise ModelError(f"{option} needs --download with the name of a model")
    listed = [(model, entry) for model in registry() for entry in model.sets]
    reports = [_report(model, entry) for model, entry in listed]
    if options.json:
        print_json(reports)
        return
    print(f"{'model':22}{'transcoders':14}{'kind':13}{'float32':>9}{'bfloat16':>9}{'disk':>9}")
    for own in installed():
        print(f"{own.name:22}{', '.join(EMBEDDED_SETS)}: embedded, nothing to download")
    for report in reports:
        sizes = "".join(f"{_size(report[key]):>9}" for key in ("float32", "bfloat16", "disk"))
        notes = [report["licence"] + ", gated" if report["gated"] else report["licence"]]
        notes += ["for chats"] if report["chat"] else []
        notes += ["downloaded"] if report["downloaded"] else []
        print(
            f"{report['model']:22}{report['transcoders']:14}{report['kind']:13}{sizes}"
            f"  {', '.join(note for note in notes if note)}"
        )
    print(
        "float32 and bfloat16: memory of the weights, with decoders left on disk where possible; "
        "prompts need more."
    )


def _report(model: ListedModel, entry: ListedSet) -> dict[str, Any]:
    from tracer import hub
    from tracer.catalog import downloads

    def is_present(reference: str, marker: str) -> bool:
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
        "chat": entry.chat,
        "float32": memory(model, entry, "float32").least,
        "bfloat16": memory(model, entry, "bfloat16").least,
        "disk": disk(model, entry).whole,
        "downloaded": is_present(model.reference, "config.json")
        and is_present(entry.reference, CONFIG),
        "own": model.own,
    }


def _size(n_bytes: int | None) -> str:
    return "?" if n_bytes is None else format_bytes(n_bytes)


def _download(options: argparse.Namespace) -> None:
    from tracer.catalog.resolve import obtain

    with progress_bar() as progress:
        source = obtain(options.download, options.transcoders, progress, options.update)
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
    print(f"{source.name} with {source.transcoders} is ready to open")
    for repository, commit in source.revisions.items():
        print(f"  {repository} at {commit}")


def _convert(options: argparse.Namespace) -> None:
    from tracer.catalog import downloads
    from tracer.transcoders.save import convert

    source, target = paths.expand_user(options.source), paths.expand_user(options.target)
    files = None
    with progress_bar() as progress:
        if not is_set(source) and not options.source.startswith(("/", ".", "~")):
            known = downloads.known(options.source)
            if known is None or downloads.to_fetch(options.source):
                plan = downloads.plan_set(options.source, progress)
                (known,) = downloads.run([plan], progress)
            source, files = known.folder, known.files if known.listed else None
        n_layers = convert(source, target, files, progress)
    if options.json:
        print_json({"layers": n_layers, "folder": str(target)})
    else:
        print(f"{n_layers} layers in {target}")
