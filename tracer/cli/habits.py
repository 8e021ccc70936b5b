"""Arguments as circuit-tracer's command line takes them, translated to ours.

``circuit-tracer attribute -t gemma -p "…" --max_n_logits 5`` works with the name of the program
replaced. Options that have no counterpart are refused with what to do instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tracer.errors import TracerError

_TRACE_OPTIONS: Final[Mapping[str, str]] = {
    "-m": "--model",
    "-t": "--transcoders",
    "-o": "--save",
    "--transcoder_set": "--transcoders",
    "--graph_output_path": "--save",
    "--max_n_logits": "--max-logits",
    "--max-n-logits": "--max-logits",
    "--desired_logit_prob": "--logit-mass",
    "--desired-logit-prob": "--logit-mass",
    "--max_feature_nodes": "--max-features",
    "--max-feature-nodes": "--max-features",
    "--batch_size": "--batch-size",
    "--node_threshold": "--node-threshold",
    "--edge_threshold": "--edge-threshold",
}
_DTYPES: Final = {"fp32": "float32", "bf16": "bfloat16"}
_DROPPED: Final = ("--verbose", "--lazy-decoder")
"""What is always so here: progress is shown in a terminal, and large decoders stay on disk."""
_PROMPT: Final = ("-p", "--prompt")
_REFUSED: Final[Mapping[str, str]] = {
    "--slug": "trace with --save, then run `export GRAPH DIRECTORY/SLUG.json`",
    "--graph_file_dir": "trace with --save, then run `export GRAPH DIRECTORY/SLUG.json`",
    "--server": "run `app`, the dashboard",
    "--port": "run `app --server.port PORT`",
    "--features_dir": "keep features/ in the folder of the transcoder set",
    "--backend": "every model opens through TransformerLens; leave it out",
}
_COMMANDS: Final = {"attribute": "trace", "start-server": "app"}


def translated(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with circuit-tracer's names replaced by ours.

    Raises :class:`TracerError` for an option of circuit-tracer that has no counterpart.

    >>> translated(["attribute", "-t", "gemma", "-p", "The sky is", "--max_n_logits=5"])
    ['trace', '--transcoders', 'gemma', '--max-logits=5', 'The sky is']
    """
    if not arguments or (arguments[0] not in _COMMANDS and arguments[0] != "trace"):
        return list(arguments)
    command = _COMMANDS.get(arguments[0], arguments[0])
    if command == "app":
        for argument in arguments[1:]:
            _refuse(argument.partition("=")[0])
        return [command, *arguments[1:]]
    result, prompts = [command], list[str]()
    rest = iter(arguments[1:])
    for argument in rest:
        name, equals, value = argument.partition("=")
        if argument == "--":
            result += [argument, *rest]
            break
        if name in _PROMPT:
            prompts.append(value if equals else next(rest, ""))
        elif name == "--dtype":
            chosen = value if equals else next(rest, "")
            result += [name, _DTYPES.get(chosen, chosen)]
        elif name == "--lazy-encoder":
            result += ["--offload", "disk"]
        elif name in _DROPPED:
            continue
        else:
            _refuse(name)
            result.append(_TRACE_OPTIONS.get(name, name) + equals + value)
    return [*result, *prompts]


def _refuse(name: str) -> None:
    if name in _REFUSED:
        raise TracerError(f"{name} is an option of circuit-tracer: {_REFUSED[name]}")
