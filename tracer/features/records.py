"""The files of a feature index, in the layout that is published with transcoder sets.

``index.json.gz`` lists a file and byte offsets for each layer; the record of a feature is a
little-endian uint32 length followed by that many bytes of zlib JSON. ``labels.json.gz`` is this
project's addition. The files may come from anywhere: their sizes and values are checked, and text
in them is never interpreted. No torch here.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Annotated, Final, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from tracer.errors import FeatureIndexError, one_line
from tracer.parsing import problem

MAX_RECORD_BYTES: Final = 2**24
"""The largest record of one feature, packed or unpacked. Published ones take some ten kilobytes."""
MAX_INDEX_BYTES: Final = 2**29
"""The largest unpacked index. One of ten million features takes about a hundred megabytes."""
UNREADABLE: Final = (struct.error, zlib.error, ValueError)
"""Every error that reading a damaged record can raise."""

Contents = TypeVar("Contents")


def unpacked(packed: bytes) -> bytes:
    """Decompress zlib or gzip contents of at most `MAX_RECORD_BYTES`, or raise ``ValueError``."""
    inflater = zlib.decompressobj(wbits=47)
    contents = inflater.decompress(packed, MAX_RECORD_BYTES)
    if inflater.unconsumed_tail:
        raise ValueError(f"unpacked, it takes more than {MAX_RECORD_BYTES} bytes")
    if not inflater.eof:
        raise ValueError("it is truncated")
    return contents


def reason(error: Exception) -> str:
    """Return why a record cannot be read, as part of a sentence."""
    return problem(error) if isinstance(error, ValidationError) else one_line(error)


def _file_name(name: str) -> str:
    if Path(name).name != name or "\0" in name:
        raise ValueError("the name of a file inside the folder of the index")
    return name


class LayerFile(BaseModel):
    """The file of one layer's records, and where each of them begins; the last offset ends it."""

    filename: Annotated[str, AfterValidator(_file_name)]
    offsets: Annotated[list[StrictInt], Field(min_length=1, fail_fast=True)]


class LabelEntry(BaseModel):
    """A label, and the share of the feature's activation that fits it."""

    label: str
    precision: FiniteFloat | None = None
    recall: FiniteFloat | None = None


_LAYERS: Final = TypeAdapter(Annotated[list[LayerFile], Field(fail_fast=True)])
_LABELS: Final = TypeAdapter(dict[int, dict[int, LabelEntry]])


def read_index(path: Path) -> list[LayerFile]:
    """Return the layers of an ``index.json.gz``; none if there is no such file.

    Raises :class:`FeatureIndexError` when it cannot be read.
    """
    return _read(path, _LAYERS) or []


def read_labels(path: Path) -> dict[int, dict[int, LabelEntry]]:
    """Return the labels of a ``labels.json.gz`` by layer and feature, as `read_index` does."""
    return _read(path, _LABELS) or {}


def _read(path: Path, adapter: TypeAdapter[Contents]) -> Contents | None:
    """Return the contents of a gzipped JSON file, or None if there is no such file."""
    if not path.is_file():
        return None
    try:
        with gzip.open(path, "rb") as file:
            contents = file.read(MAX_INDEX_BYTES + 1)
        if len(contents) > MAX_INDEX_BYTES:
            raise ValueError(f"unpacked, it takes more than {MAX_INDEX_BYTES} bytes")
        return adapter.validate_json(contents)
    except (OSError, EOFError, *UNREADABLE) as error:
        raise FeatureIndexError(
            f"the feature index {path} cannot be read ({reason(error)}): build it again, or delete "
            "its folder to continue without examples"
        ) from error


class Lenient(BaseModel):
    """Part of a record; a number is accepted where text is expected, and unknown fields ignored."""

    model_config = ConfigDict(coerce_numbers_to_str=True)


Texts = Annotated[list[str], Field(fail_fast=True)]
Numbers = Annotated[list[FiniteFloat], Field(fail_fast=True)]
Counts = Annotated[list[Annotated[float, Field(ge=0, lt=2**53)]], Field(fail_fast=True)]


class RecordExample(Lenient):
    """A text in a record: tokens and the feature's activation on each."""

    tokens: Texts
    source: str = ""
    """Title and author of the text."""
    tokens_acts_list: Numbers = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_activation_per_token(self) -> Self:
        if len(self.tokens) != len(self.tokens_acts_list):
            raise ValueError(
                f"as many activations as tokens, not {len(self.tokens_acts_list)} for "
                f"{len(self.tokens)}"
            )
        return self


class RecordGroup(Lenient):
    """Examples of similar strength."""

    quantile_name: str
    examples: Annotated[list[RecordExample], Field(fail_fast=True)]


class Record(Lenient):
    """A feature in the published layout."""

    examples_quantiles: Annotated[list[RecordGroup], Field(fail_fast=True)]
    top_logits: Texts | None = None
    bottom_logits: Texts | None = None
    act_max: FiniteFloat | None = None
    activation_frequency: FiniteFloat | None = None
    histogram: Counts | None = None
    histogram_step: FiniteFloat | None = None
    quantile_values: Numbers | None = None
