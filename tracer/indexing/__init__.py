"""Feature indexes for any model: what every transcoder feature fires on, promotes, and is called.

:func:`build_index` streams a corpus through an opened model, in memory of a fixed size, and writes
the layout that :mod:`tracer.features.cards` reads.
"""

from tracer.indexing.build import IndexSummary as IndexSummary
from tracer.indexing.build import build_index as build_index
from tracer.indexing.labels import LabelRule as LabelRule
from tracer.indexing.memory import IndexMemory as IndexMemory
from tracer.indexing.memory import index_memory as index_memory
