"""What a `.pt` file holds, without running anything that it asks for.

A `.pt` is a zip whose pickle names the functions that rebuild its content; a plain reader calls
whatever is named. Here the names are listed first, by walking over the instructions without
following them, and a file that names anything but tensors and the few records of a graph is
refused. What is left is read by torch's weights-only reader, with stand-ins for the records.
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

from tracer.errors import ExternalGraphError

MAX_BYTES: Final = 2 * 2**30
_MAX_INSTRUCTIONS: Final = 16 * 2**20
"""Bytes of the pickle itself; that of a graph has a few thousand, its numbers stand beside it."""
_ZIP_START: Final = b"PK\x03\x04"
_PROTOCOL_2: Final = b"\x80\x02"


class LogitRecord(NamedTuple):
    """One target of a graph; stands in for circuit-tracer's."""

    token_str: str
    vocab_idx: int


class Record:
    """Stands in for a record of another tool: keeps its fields, does nothing."""

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
"""What stands in such a zip; TorchScript, which is code, has more."""
_FIRST_WITH_COMPUTED_NAMES: Final = 4
_OLD_NAMES: Final = {"__builtin__": "builtins"}
_READING: Final = threading.Lock()
"""torch keeps the stand-ins in one place for the whole process."""


def unpack(source: str | os.PathLike[str] | bytes) -> dict[str, Any]:
    """The mapping that a `.pt` file holds: tensors (on the CPU), texts, numbers and records.

    Raises :class:`ExternalGraphError` when the file is no such zip, is damaged, larger than
    `MAX_BYTES`, or asks for anything that a graph never does; nothing of it is run then.
    """
    name = "the graph" if isinstance(source, bytes) else Path(source).name
    content = _content(source, name)
    instructions = _instructions(content, name)
    _check_names(instructions, name)
    if not instructions.startswith(_PROTOCOL_2):
        raise ExternalGraphError(
            f"{name} is not in pickle protocol 2, which circuit-tracer and torch write: save it "
            "again with torch.save's defaults"
        )
    import torch

    if _as_torch_sees_it(content, name) != instructions:
        raise ExternalGraphError(
            f"{name} is a zip with two directories, of which every reader takes another: nothing "
            "was run; save the graph again"
        )
    stand_ins = [(record, spelled) for spelled, record in _RECORDS.items()]
    try:
        with _READING, torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
            stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # damage can surface as nearly any error, and is never ours
        if type(error).__name__ == "UnpicklingError":  # its text is for programmers, on torch
            raise ExternalGraphError(
                f"{name} has instructions that a graph of circuit-tracer never has: they were not "
                "followed; save the graph again"
            ) from error
        reason = (str(error).splitlines() or [""])[0]
        raise ExternalGraphError(
            f"{name} is damaged ({type(error).__name__}: {reason[:120]}): save the graph again"
        ) from error
    if not isinstance(stored, dict):
        raise ExternalGraphError(
            f"{name} holds a {type(stored).__name__}, expected the mapping that circuit-tracer's "
            "Graph.to_pt writes"
        )
    return stored


def _as_torch_sees_it(content: bytes, name: str) -> bytes:
    """The pickle by the reader that will follow it: there are zips that two readers read apart."""
    import torch

    try:
        return bytes(torch._C.PyTorchFileReader(io.BytesIO(content)).get_record("data.pkl"))
    except RuntimeError as error:
        raise ExternalGraphError(
            f"{name} is cut off or damaged ({str(error)[:120]}): copy or save the graph again"
        ) from error


def _content(source: str | os.PathLike[str] | bytes, name: str) -> bytes:
    try:
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        if size > MAX_BYTES:
            raise ExternalGraphError(
                f"{name} has {size / 2**20:,.0f} MiB, at most {MAX_BYTES // 2**20:,} can be read: "
                "trace with fewer features, or export the pruned graph as JSON"
            )
        return source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ExternalGraphError(f"{name} cannot be read: {error.strerror}") from error


def _instructions(content: bytes, name: str) -> bytes:
    """The pickle inside the zip, its size and that of everything beside it checked."""
    if not content.startswith(_ZIP_START):
        if content[:1] == b"\x80":
            _check_names(content, name)
            raise ExternalGraphError(
                f"{name} is a bare pickle, not the zip that circuit-tracer writes: such a file can "
                "run code when it is opened, so nothing was read; save the graph again"
            )
        raise ExternalGraphError(
            f"{name} is no .pt file: expected the zip that circuit-tracer's Graph.to_pt writes"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            found = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
            if len(found) != 1:
                raise ExternalGraphError(
                    f"{name} is a zip with {len(found)} files data.pkl, expected one: it is no "
                    "graph that circuit-tracer wrote"
                )
            for entry in entries:
                if not _FILES.fullmatch(entry.filename):
                    raise ExternalGraphError(
                        f"{name} is a zip that holds {entry.filename[:60]!r}, which a graph of "
                        "circuit-tracer never does: nothing was run"
                    )
            if sum(entry.file_size for entry in entries) > len(content):
                raise ExternalGraphError(
                    f"{name} unfolds to more than it has, which a graph of circuit-tracer never "
                    "does: nothing was unfolded"
                )
            if any(e.compress_type != zipfile.ZIP_STORED for e in entries):
                raise ExternalGraphError(
                    f"{name} is compressed, which a graph of circuit-tracer never is: save it again"
                )
            if found[0].file_size > _MAX_INSTRUCTIONS:
                raise ExternalGraphError(
                    f"{name} has {found[0].file_size:,} bytes of instructions, a graph has at most "
                    f"{_MAX_INSTRUCTIONS:,}"
                )
            return archive.read(found[0])
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ExternalGraphError(
            f"{name} is cut off or damaged ({error}): copy or save the graph again"
        ) from error


def _check_names(instructions: bytes, name: str) -> None:
    """Refuse whatever names something that the pickle of a graph never does."""
    try:
        for asked in _names(instructions):
            if asked not in _RECORDS and not _TENSORS.fullmatch(asked):
                raise ExternalGraphError(
                    f"{name} asks for {asked}: a graph of circuit-tracer never does; nothing was "
                    "run"
                )
    except (ValueError, IndexError, KeyError, UnicodeError, OverflowError) as error:
        raise ExternalGraphError(
            f"{name} is damaged: its pickle cannot be followed ({error}); save the graph again"
        ) from error


def _names(instructions: bytes) -> Iterator[str]:
    """Everything that a pickle asks to be looked up, in whichever of the ways there are."""
    stream = io.BytesIO(instructions)
    while stream.tell() == 0 or instructions[stream.tell() : stream.tell() + 1] == b"\x80":
        yield from _names_of_one(stream)  # older files are several pickles in a row


def _names_of_one(stream: io.BytesIO) -> Iterator[str]:
    texts: list[str] = []
    kept: dict[Any, str] = {}
    protocol = 0
    for operation, argument, _ in pickletools.genops(stream):
        word = operation.name
        if word in ("GLOBAL", "INST"):
            yield _spelled(*str(argument).split(" ", 1))
        elif word == "PROTO":
            protocol = int(argument or 0)
        elif word == "STACK_GLOBAL":
            yield _spelled(*(["?", "?", *texts][-2:]))  # as far as can be told from here
            if protocol < _FIRST_WITH_COMPUTED_NAMES:
                yield "a function by a computed name"
        elif word.startswith("EXT"):
            yield f"extension {argument}"
        elif word in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            kept[len(kept) if argument is None else argument] = texts[-1] if texts else ""
        elif word in ("GET", "BINGET", "LONG_BINGET"):
            texts.append(kept.get(argument, "?"))
        elif isinstance(argument, str):
            texts.append(argument)


def _spelled(module: str, name: str = "?") -> str:
    return f"{_OLD_NAMES.get(module, module)}.{name}"
