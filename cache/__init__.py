"""The cached attribution backend: a store on disk and one worker that owns the models.

Importing this package is light: torch is imported by the worker's thread, on its first job.

    request.py    what can be asked, and the digests under which answers are kept
    catalogue.py  the SQLite side of the store: which graph is where, since when, named what
    store.py      the file side: content-addressed graphs, checksums, quota
    lru.py        a bounded memory of decoded results
    jobs.py       one piece of work that several sessions may watch
    engine.py     what the worker runs: `tracer`, or a stand-in
    worker.py     the thread that owns the models, and its queue
    backend.py    all of it behind one object
"""

from cache.backend import Backend, open_backend
from cache.catalogue import DamagedFile, StoredGraph, StoreError
from cache.jobs import Job, JobState
from cache.request import InterveneRequest, ModelChoice, ScenarioRequest, TraceRequest

__all__ = [
    "Backend",
    "DamagedFile",
    "InterveneRequest",
    "Job",
    "JobState",
    "ModelChoice",
    "ScenarioRequest",
    "StoreError",
    "StoredGraph",
    "TraceRequest",
    "open_backend",
]
