"""The cached attribution backend: a store on disk and one worker that owns the models.

Importing this package is light: torch is imported by the worker's thread, on its first job.

    request.py    what can be asked, and the digests under which answers are kept
    catalogue.py  the SQLite side of the store: which graph is where, since when, named what
    store.py      the file side: content-addressed graphs, checksums, quota
    marks.py      pins, named groups of nodes, runs of what-ifs: what a person adds to a trace
    imports.py    graphs of other tools on their way in, and all graphs on their way out
    lru.py        a bounded memory of decoded results
    jobs.py       one piece of work that several sessions may watch
    engine.py     what the worker runs: `tracer`, or a stand-in
    worker.py     the thread that owns the models, and its queue
    backend.py    all of it behind one object
"""

from cache.annotations import (
    Annotations,
    BoxPosition,
    StoredRun,
    scenarios_from_json,
    scenarios_to_json,
)
from cache.backend import Backend, open_backend
from cache.catalogue import DamagedFile, StoredGraph, StoreError
from cache.files import StoreUse
from cache.jobs import Job, JobState
from cache.machine import Device, Machine
from cache.model_library import ToDownload
from cache.request import (
    Dtype,
    InterveneRequest,
    ModelChoice,
    Published,
    ScenarioRequest,
    TraceRequest,
)
from tracer.interchange.nodes import stored_labels

__all__ = [
    "Annotations",
    "Backend",
    "BoxPosition",
    "DamagedFile",
    "Device",
    "Dtype",
    "InterveneRequest",
    "Job",
    "JobState",
    "Machine",
    "ModelChoice",
    "Published",
    "ScenarioRequest",
    "StoreError",
    "StoreUse",
    "StoredGraph",
    "StoredRun",
    "ToDownload",
    "TraceRequest",
    "open_backend",
    "scenarios_from_json",
    "scenarios_to_json",
    "stored_labels",
]
