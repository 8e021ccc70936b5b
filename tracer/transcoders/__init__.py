"""Per-layer and cross-layer transcoders, and the published layouts they are read from."""

from tracer.set_config import ReadPoint, WritePoint
from tracer.transcoders.reading import load_transcoders
from tracer.transcoders.sets import Transcoder, TranscoderSet
from tracer.transcoders.writing import convert, save_transcoders

__all__ = [
    "ReadPoint",
    "Transcoder",
    "TranscoderSet",
    "WritePoint",
    "convert",
    "load_transcoders",
    "save_transcoders",
]
