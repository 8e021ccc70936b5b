"""The cached backend: a store on disk, and one worker thread that owns the models.

Importing this package is light: torch is imported in the worker's thread, for its first job.

    opening.py        the backend as the environment configures it
    backend.py        everything below behind one object
    model_library.py  models: files, downloads, feature examples, the machine
    attention.py      questions about the heads of a stored graph
    turns.py          the waiting jobs of a queue, and whose turn it is
    departures.py     visitors who have left, and their requests
    trace_pool.py     several remote workers that share one queue
    ray_workers.py    remote workers on a Ray cluster
    questions.py      searches of dictionaries, features and tokens of a text
    forecast.py       the memory and time of a trace before it runs
    feature_labels.py labels that people give to features, and their names
    undo.py           deleted graphs that can be restored
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
    catalogue_checks.py     checksums of its rows, and the second copy of what people wrote
    annotation_files.py     that second copy
    stored_annotations.py   titles, notes, pins and runs in the store
    stored_graphs.py        graphs in memory and in the store
    __main__.py       python -m cache
    database.py       SQLite: connections, transactions, checks, migrations
    salvage.py        what can be read of a damaged SQLite file
    store_repair.py   damage: found, reported, repaired
    merge.py          two changes of the same annotations
    prompt_file.py    many prompts in a CSV or JSONL file
    many.py           many prompts traced into the store
    many_command.py   python -m cache trace
    logs.py           structured logs
    health.py         a health endpoint, and facts for a bug report
    upload.py         large uploads, read in a process of their own
    annotations.py    what a visitor adds to a trace: pins, supernodes, runs
"""

from cache.annotations import (
    Annotations,
    BoxPosition,
    StoredRun,
    scenarios_from_json,
    scenarios_to_json,
)
from cache.attention import WhoCarried, WhoCarriedEdges, WhyLook, WithoutPairs
from cache.backend import Backend
from cache.catalogue import DamagedFile, StoredGraph, StoreError, StoreUse
from cache.forecast import Forecast
from cache.jobs import Job, JobState
from cache.machine import Device, Machine
from cache.many import ManyTraces, summary_csv
from cache.merge import Saved, merged_annotations
from cache.model_library import ToDownload
from cache.opening import open_backend
from cache.prompt_file import BadLine, Prompt, prompts_in, prompts_of_lines
from cache.questions import ActivationsOn, ChatText, NeighbourSearch, TextSearch, TokenSearch
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
    "ActivationsOn",
    "Annotations",
    "Backend",
    "BadLine",
    "BoxPosition",
    "ChatText",
    "DamagedFile",
    "Device",
    "Dtype",
    "Forecast",
    "InterveneRequest",
    "Job",
    "JobState",
    "Machine",
    "ManyTraces",
    "ModelChoice",
    "NeighbourSearch",
    "Prompt",
    "Published",
    "Saved",
    "ScenarioRequest",
    "StoreError",
    "StoreUse",
    "StoredGraph",
    "StoredRun",
    "TextSearch",
    "ToDownload",
    "TokenSearch",
    "TraceRequest",
    "WhoCarried",
    "WhoCarriedEdges",
    "WhyLook",
    "WithoutPairs",
    "merged_annotations",
    "open_backend",
    "prompts_in",
    "prompts_of_lines",
    "scenarios_from_json",
    "scenarios_to_json",
    "stored_labels",
    "summary_csv",
]
