"""Build feature indexes: what each transcoder feature fires on and promotes, and a label.

:func:`build_index` streams a corpus through an opened model, in a fixed amount of memory, and
writes the layout that :mod:`tracer.features.cards` reads.
"""

from tracer.indexing.build import IndexSummary as IndexSummary
from tracer.indexing.build import build_index as build_index
from tracer.indexing.labels import LabelRule as LabelRule
from tracer.indexing.memory import IndexMemory as IndexMemory
from tracer.indexing.memory import index_memory as index_memory
