"""Read the content of a `.pt` file without running any code that it names.

A `.pt` is a zip with a pickle, which names the functions that rebuild its content; a plain reader
calls whatever is named. Here the names are listed first, by scanning the instructions without
executing them, and a file that names anything but tensors and the few records of a graph is
refused. The rest is read by torch's weights-only reader, with stand-ins for the records.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracer.errors import ExternalGraphError, one_line, short
from tracer.files import format_bytes

MAX_BYTES: Final = 2 * 2**30
_MAX_INSTRUCTIONS: Final = 16 * 2**20
"""The most bytes of the pickle itself: a graph has a few thousand, its numbers are separate."""
_ZIP_START: Final = b"PK\x03\x04"
_PROTOCOL_2: Final = b"\x80\x02"


class LogitRecord(NamedTuple):
    """A target of a graph, in place of circuit-tracer's ``LogitTarget``."""

    token_str: str
    vocab_idx: int


class Record:
    """Fields of a record of another tool, such as a configuration, without its behaviour."""

    def __init__(self, *values: Any) -> None:
        self.fields: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.fields = dict(state) if isinstance(state, dict) else {}


_LENS: Final = "transformer_lens"
_RECORDS: Final[dict[str, type]] = {
    "circuit_tracer.attribution.targets.LogitTarget": LogitRecord,
    "circuit_tracer.utils.tl_nnsight_mapping.UnifiedConfig": Record,
    f"{_LENS}.HookedTransformerConfig.HookedTransformerConfig": Record,
    f"{_LENS}.config.HookedTransformerConfig.HookedTransformerConfig": Record,
    f"{_LENS}.config.hooked_transformer_config.HookedTransformerConfig": Record,
    f"{_LENS}.config.TransformerBridgeConfig.TransformerBridgeConfig": Record,
    "numpy.core.multiarray.scalar": Record,  # some configurations hold a numpy number
    "numpy._core.multiarray.scalar": Record,
    "numpy.dtype": Record,
}
_TENSORS: Final = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_tensor(_v2)?|torch\.Size|torch\.device"
    r"|torch\.(Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
    r"|torch\.(float(16|32|64)|bfloat16|u?int(8|16|32|64)|bool)|_codecs\.encode"
)
_FILES: Final = re.compile(r"[^/]+/(data\.pkl|data/\d+|version|byteorder|\.\w[\w./]*)")
"""The files in such a zip; TorchScript, which is code, has others too."""
_FIRST_WITH_COMPUTED_NAMES: Final = 4
_OLD_NAMES: Final = {"__builtin__": "builtins"}
_READING: Final = threading.Lock()
"""torch keeps the stand-ins in one place per process."""


def unpack(source: str | os.PathLike[str] | bytes) -> dict[str, Any]:
    """Return the mapping in a `.pt` file: tensors (on the CPU), strings, numbers and records.

    Raises :class:`ExternalGraphError` when the file is not such a zip, is damaged or larger than
    `MAX_BYTES`, or names anything that a graph does not need; no code of it is run then.
    """
    name = "the graph" if isinstance(source, bytes) else Path(source).name
    content = _content(source, name)
    instructions = _instructions(content, name)
    _check_names(instructions, name)
    if not instructions.startswith(_PROTOCOL_2):
        raise ExternalGraphError(
            f"{name} does not use pickle protocol 2, torch.save's default: save it again without "
            "pickle_protocol"
        )
    import torch

    if _as_torch_sees_it(content, name) != instructions:
        raise ExternalGraphError(
            f"{name} is a zip with two directories, so that two readers see two contents: nothing "
            "was run; save the graph again"
        )
    stand_ins = [(record, spelling) for spelling, record in _RECORDS.items()]
    try:
        with _READING, torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
            stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # damage can surface as nearly any error
        if type(error).__name__ == "UnpicklingError":  # its message is about torch's options
            raise ExternalGraphError(
                f"{name} has pickle instructions that a circuit-tracer graph never has: they were "
                "not executed; save the graph again"
            ) from error
        reason = (str(error).splitlines() or [""])[0]
        raise ExternalGraphError(
            f"{name} is damaged ({type(error).__name__}: {reason[:120]}): save the graph again"
        ) from error
    if not isinstance(stored, dict):
        raise ExternalGraphError(
            f"{name} contains a {type(stored).__name__}, expected the mapping that "
            "circuit-tracer's Graph.to_pt writes"
        )
    return stored


def _as_torch_sees_it(content: bytes, name: str) -> bytes:
    """Return the pickle that torch's reader finds: a zip can show two readers two contents."""
    import torch

    try:
        return bytes(torch._C.PyTorchFileReader(io.BytesIO(content)).get_record("data.pkl"))
    except RuntimeError as error:
        raise ExternalGraphError(
            f"{name} is truncated or damaged ({str(error)[:120]}): copy or save the graph again"
        ) from error


def _content(source: str | os.PathLike[str] | bytes, name: str) -> bytes:
    try:
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        if size > MAX_BYTES:
            raise ExternalGraphError(
                f"{name} has {format_bytes(size)}, at most {format_bytes(MAX_BYTES)} can be read: "
                "trace with fewer features, or export the pruned graph as JSON"
            )
        return source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ExternalGraphError(f"{name} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a path with a NUL or half a character
        raise ExternalGraphError(f"{source!r} cannot be read: {one_line(error)}") from error


def _instructions(content: bytes, name: str) -> bytes:
    """Return the pickle inside the zip, after checks of the names and sizes of all its files."""
    if not content.startswith(_ZIP_START):
        if content[:1] == b"\x80":
            _check_names(content, name)
            raise ExternalGraphError(
                f"{name} is a bare pickle, not the zip that circuit-tracer writes: such a file can "
                "run code when opened, so it was not read; save the graph again"
            )
        raise ExternalGraphError(
            f"{name} is not a .pt file, expected the zip that circuit-tracer's Graph.to_pt writes"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ExternalGraphError(
                    f"{name} is a zip with {len(pickles)} files named data.pkl, expected one: "
                    "circuit-tracer did not write it"
                )
            for entry in entries:
                if not _FILES.fullmatch(entry.filename):
                    raise ExternalGraphError(
                        f"{name} is a zip that contains {entry.filename[:60]!r}, which a "
                        "circuit-tracer graph never does: nothing was run"
                    )
            if sum(entry.file_size for entry in entries) > len(content):
                raise ExternalGraphError(
                    f"{name} unpacks to more bytes than it has, which a circuit-tracer graph never "
                    "does: nothing was unpacked"
                )
            if any(e.compress_type != zipfile.ZIP_STORED for e in entries):
                raise ExternalGraphError(
                    f"{name} is compressed, which a circuit-tracer graph never is: save it again"
                )
            if pickles[0].file_size > _MAX_INSTRUCTIONS:
                raise ExternalGraphError(
                    f"{name} has {pickles[0].file_size:,} bytes of pickle instructions, expected "
                    f"at most {_MAX_INSTRUCTIONS:,}"
                )
            return archive.read(pickles[0])
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ExternalGraphError(
            f"{name} is truncated or damaged ({one_line(error)}): copy or save the graph again"
        ) from error


def _check_names(instructions: bytes, name: str) -> None:
    """Refuse a pickle that names something that the pickle of a graph never does."""
    try:
        for named in _names(instructions):
            if named not in _RECORDS and not _TENSORS.fullmatch(named):
                raise ExternalGraphError(
                    f"{name} names {short(repr(named))}, which a circuit-tracer graph never does: "
                    "nothing was run"
                )
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ExternalGraphError(
            f"{name} is damaged: its pickle cannot be parsed ({one_line(error)}); save the graph "
            "again"
        ) from error


def _names(instructions: bytes) -> Iterator[str]:
    """Yield every name that a pickle looks up, in any of the ways a pickle can."""
    stream = io.BytesIO(instructions)
    while stream.tell() == 0 or instructions[stream.tell() : stream.tell() + 1] == b"\x80":
        yield from _names_of_one(stream)  # older files have several pickles in a row


def _names_of_one(stream: io.BytesIO) -> Iterator[str]:
    texts: list[str] = []
    memo: dict[Any, str] = {}
    protocol = 0
    for operation, argument, _ in pickletools.genops(stream):
        word = operation.name
        if word in ("GLOBAL", "INST"):
            yield _dotted(*str(argument).split(" ", 1))
        elif word == "PROTO":
            protocol = int(argument or 0)
        elif word == "STACK_GLOBAL":
            yield _dotted(*(["?", "?", *texts][-2:]))  # a guess: it is on the stack
            if protocol < _FIRST_WITH_COMPUTED_NAMES:
                yield "a function by a computed name"
        elif word.startswith("EXT"):
            yield f"extension {argument}"
        elif word in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = texts[-1] if texts else ""
        elif word in ("GET", "BINGET", "LONG_BINGET"):
            texts.append(memo.get(argument, "?"))
        elif isinstance(argument, str):
            texts.append(argument)


def _dotted(module: str, name: str = "?") -> str:
    return f"{_OLD_NAMES.get(module, module)}.{name}"
