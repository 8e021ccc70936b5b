"""Downloads, open models and the machine: none of them waits for another."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeEngine, until
from hub_server import HubServer
from published import BIG, MODEL, SET, THERE, local_choice

from cache import Backend, Machine, ModelChoice, TraceRequest
from cache.machine import Gpu
from cache.model_library import ModelLibrary
from tracer.errors import (
    Cancelled,
    LicenceError,
    ModelError,
    RepositoryMissingError,
)

DALLAS = TraceRequest("The capital of the state containing Dallas is")
THREADS = {"downloads", "machine", "worker"}
"""Names of threads of a backend."""


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def partial_bytes() -> list[int]:
    """Return the sizes of the files that have arrived in part."""
    partial = Path(os.environ["HF_HUB_CACHE"]).glob("*/blobs/*.incomplete")
    return [path.stat().st_size for path in partial]


# Downloads


def test_a_download_and_a_trace_run_at_the_same_time(
    backend_here: Backend, engine: FakeEngine, published: HubServer
) -> None:
    quick = published.slow_after("model.safetensors", 2_000_000)
    download = backend_here.library.download(THERE)
    until(lambda: download.progress[0] > 1_000_000)
    backend_here.trace(DALLAS).result(10)
    assert download.state == "running"

    gate = engine.hold()
    trace = backend_here.trace(TraceRequest("another one"))
    gate.wait_until_reached()
    quick.set()
    assert download.result(10).revisions.keys() == {MODEL, SET}
    assert trace.state == "running"


def test_download_progress_counts_the_bytes_of_all_files(
    library: ModelLibrary, published: HubServer
) -> None:
    assert not library.is_here(THERE)
    size = library.to_download(THERE).result(10).n_bytes
    assert size == len(BIG) + len("{}") + len(b"tensors"), "the set's config was read already"
    quick = published.slow_after("model.safetensors", 2_000_000)
    job = library.download(THERE)
    until(lambda: job.progress[0] > 1_000_000)
    done, total, what = job.progress
    assert total == size and done < size
    assert what == "downloading model.safetensors"
    assert library.downloads == (job,) and library.downloading(THERE) is job
    quick.set()
    source = job.result(10)
    assert (source.model_folder / "model.safetensors").read_bytes() == BIG
    assert job.progress[:2] == (size, size)
    assert library.downloads == () and library.downloading(THERE) is job
    assert library.is_here(THERE)
    assert library.to_download(THERE).result(10).n_bytes == 0


def test_only_models_on_this_disk_are_here(library: ModelLibrary, tmp_path: Path) -> None:
    assert library.is_here(ModelChoice()) and library.is_here(local_choice(tmp_path))
    assert not library.is_here(ModelChoice(str(tmp_path / "nowhere"), str(tmp_path / "set")))
    assert library.downloading(ModelChoice()) is None


def test_a_cancelled_download_resumes_where_it_stopped(
    library: ModelLibrary, published: HubServer
) -> None:
    quick = published.slow_after("model.safetensors", 2_000_000)
    job = library.download(THERE, "anna")
    until(lambda: job.progress[0] > 1_000_000)
    job.cancel("anna")
    with pytest.raises(Cancelled):
        job.result(10)
    assert not library.is_here(THERE)
    (kept,) = partial_bytes()
    assert kept > 1_000_000
    quick.set()
    source = library.download(THERE, "anna").result(10)
    assert (source.model_folder / "model.safetensors").read_bytes() == BIG
    assert published.asked("model.safetensors")[-1].byte_range == f"bytes={kept}-"


def test_closing_stops_a_download_and_ends_the_threads(
    backend_here: Backend, published: HubServer
) -> None:
    before = threads()
    published.slow_after("model.safetensors", 2_000_000)
    job = backend_here.library.download(THERE, "anna")
    backend_here.library.download(THERE, "ben")
    backend_here.library.machine()
    backend_here.trace(DALLAS).result(10)
    until(lambda: job.progress[0] > 1_000_000)
    started = [thread for thread in threads() - before if thread.name in THREADS]
    assert {thread.name for thread in started} == THREADS
    backend_here.close(20)
    assert job.state == "cancelled"
    assert not any(thread.is_alive() for thread in started)
    (kept,) = partial_bytes()
    assert kept > 1_000_000


def test_two_sessions_share_a_download_and_it_stops_when_all_cancel(
    library: ModelLibrary, published: HubServer
) -> None:
    quick = published.slow_after("model.safetensors", 2_000_000)
    job = library.download(THERE, "anna")
    until(lambda: job.progress[0] > 1_000_000)
    assert library.download(THERE, "ben") is job
    for other in (ModelChoice("lab/other", SET), ModelChoice(MODEL, "lab/other")):
        assert library.downloading(other) is None
    narrow = ModelChoice(MODEL, SET, "bfloat16")
    assert library.download(narrow, "carl") is job, "the files are the same"
    for session in ("anna", "carl"):
        job.cancel(session)
    quick.set()
    assert job.result(10).revisions.keys() == {MODEL, SET}
    assert len(published.asked("model.safetensors")) == 1

    published.add(MODEL, {"config.json": "{}", "model.safetensors": BIG[:-1]})
    published.slow_after("model.safetensors", 2_000_000)
    again = library.download(THERE, "anna", update=True)
    library.download(THERE, "ben")
    until(lambda: again.progress[0] > 1_000_000)
    again.cancel("anna")
    again.cancel("ben")
    with pytest.raises(Cancelled):
        again.result(10)


def test_an_update_fetches_the_current_commit(library: ModelLibrary, published: HubServer) -> None:
    before = library.download(THERE).result(10)
    commit = published.add(MODEL, {"config.json": "{}", "model.safetensors": BIG[::-1]})
    assert library.download(THERE).result(10) == before
    after = library.download(THERE, update=True).result(10)
    assert after.revisions == {MODEL: commit, SET: before.revisions[SET]}


def test_an_update_during_a_download_runs_after_it(
    library: ModelLibrary, published: HubServer
) -> None:
    quick = published.slow_after("model.safetensors", 1_000_000)
    plain = library.download(THERE, "anna")
    until(lambda: plain.progress[0] > 1_000_000)
    assert library.downloading(THERE) is plain
    commit = published.add(MODEL, {"config.json": "{}", "model.safetensors": BIG[::-1]})
    update = library.download(THERE, "ben", update=True)
    assert update is not plain and library.download(THERE, "carl") is update
    quick.set()
    assert plain.result(10).revisions[MODEL] != update.result(10).revisions[MODEL] == commit
    assert library.downloading(THERE) is update


def test_a_problem_with_a_repository_is_the_error_of_the_job(
    library: ModelLibrary, published: HubServer, tmp_path: Path
) -> None:
    missing = library.download(ModelChoice("lab/nowhere", SET))
    with pytest.raises(RepositoryMissingError, match="model repository lab/nowhere not found"):
        missing.result(10)
    with pytest.raises(RepositoryMissingError):
        library.to_download(ModelChoice("lab/nowhere", SET)).result(10)
    published.add(MODEL, {"config.json": "{}", "model.safetensors": BIG}, gated=True, token="good")
    gated = library.download(THERE)
    with pytest.raises(LicenceError, match=MODEL):
        gated.result(10)
    with pytest.raises(ModelError, match="nowhere"):
        library.download(ModelChoice(str(tmp_path / "nowhere"), SET)).result(10)
    assert {missing.state, gated.state} == {"failed"}
    published.add(MODEL, {"config.json": "{}", "model.safetensors": BIG})
    assert library.download(THERE).result(10).revisions.keys() == {MODEL, SET}


# Open models, and the machine


def test_an_open_model_can_be_unloaded(backend_here: Backend, engine: FakeEngine) -> None:
    library, choice = backend_here.library, ModelChoice()
    assert library.opened == ()
    backend_here.warm(choice).result(10)
    assert library.opened == (choice,)
    library.unload(choice)
    until(lambda: library.opened == ())
    backend_here.trace(DALLAS).result(10)
    assert engine.choices == [choice, choice]


def test_a_model_can_be_unloaded_by_another_of_its_names(
    backend_here: Backend, tmp_path: Path
) -> None:
    library, choice = backend_here.library, local_choice(tmp_path)
    backend_here.warm(choice).result(10)
    library.unload(replace(choice, model=f"{choice.model}/", dtype="bfloat16"))
    library.unload(replace(choice, model=f"{choice.model}/"))
    until(lambda: library.opened == ())


def test_memory_is_measured_at_once_and_the_device_in_the_background(
    library: ModelLibrary, engine: FakeEngine
) -> None:
    released = threading.Event()

    def look() -> Machine:
        released.wait(10)
        return Machine(1, 1, 1, "cuda", Gpu("fast", 80, 70))

    engine.look = look
    found = library.machine()
    assert not released.is_set() and (found.device, found.gpu) == ("", None)
    assert found.memory > found.free_memory > 1 and found.free_disk > 1
    released.set()
    until(lambda: library.machine().device == "cuda")
    found = library.machine()
    assert found.gpu == Gpu("fast", 80, 70) and found.room == 70
    assert found.memory > 1 and found.free_disk > 1, "current, not as measured with the device"


def test_a_failed_measurement_loses_only_the_device(
    library: ModelLibrary, engine: FakeEngine
) -> None:
    def look() -> Machine:
        raise ModelError("device 'abacus' does not exist")

    engine.look = look
    for _ in range(2):
        assert library.machine().device == ""
        assert library.machine().memory > 0


def test_the_accelerator_is_measured_again_each_time(
    library: ModelLibrary, engine: FakeEngine
) -> None:
    free = iter(range(70, 0, -1))
    engine.look = lambda: Machine(1, 1, 1, "cuda", Gpu("fast", 80, next(free)))
    until(lambda: library.machine().gpu is not None)
    first = library.machine().room
    until(lambda: library.machine().room < first)


def test_the_machine_is_measured_while_the_hub_is_slow(
    library: ModelLibrary, engine: FakeEngine
) -> None:
    released = threading.Event()
    library._sizes.submit("slow", "slow", lambda job: released.wait(10))
    until(lambda: library.machine().device == "fake")
    released.set()
