"""Per-layer and cross-layer transcoders, and the published layouts they are read from."""

from tracer.transcoders.reading import load_transcoders
from tracer.transcoders.sets import ReadPoint, Transcoder, TranscoderSet, WritePoint

__all__ = ["ReadPoint", "Transcoder", "TranscoderSet", "WritePoint", "load_transcoders"]
