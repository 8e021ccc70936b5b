"""The cached backend: a store on disk, and one worker thread that owns the models.

Importing this package is light: torch is imported in the worker's thread, for its first job.

    backend.py        everything below behind one object
    model_library.py  models: files, downloads, feature examples, the machine
    attention.py      questions about the heads of a stored graph
    worker.py         the thread that owns the models
    job_queue.py      one thread and the jobs that wait for it
    jobs.py           one piece of work that several sessions may watch
    engine.py         what the worker runs: `tracer`, or a stand-in in tests
    machine.py        memory, disk and accelerator
    request.py        what can be asked, and the digests under which answers are kept
    method.py         a digest of the code and libraries that compute
    graph_memory.py   decoded graphs and their pruned forms, bounded together
    memory.py         other bounded caches, and how much memory a result holds
    store.py          graphs on disk: verified, bounded, safe under several processes
    catalogue.py      the SQLite side of the store: titles, checksums, times
    graph_folder.py   the files of the store
    graph_files.py    graphs of other tools, and export
    annotations.py    what a visitor adds to a trace: pins, supernodes, runs
"""

from cache.annotations import (
    Annotations,
    BoxPosition,
    StoredRun,
    scenarios_from_json,
    scenarios_to_json,
)
from cache.attention import WhoCarried, WhoCarriedEdges, WhyLook
from cache.backend import Backend, open_backend
from cache.catalogue import DamagedFile, StoredGraph, StoreError, StoreUse
from cache.jobs import Job, JobState
from cache.machine import Device, Machine
from cache.model_library import ToDownload
from cache.request import (
    Dtype,
    InterveneRequest,
    ModelChoice,
    ScenarioRequest,
    TraceRequest,
)
from tracer.catalog.published import Published
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
    "WhoCarried",
    "WhoCarriedEdges",
    "WhyLook",
    "open_backend",
    "scenarios_from_json",
    "scenarios_to_json",
    "stored_labels",
]
