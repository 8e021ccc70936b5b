"""Work that outlasts a visitor's patience: shown in progress, overtaken, cancelled or failed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.runtime.scriptrunner import RerunData, StopException, get_script_run_ctx
from streamlit.testing.v1 import AppTest

from cache import Job, ScenarioRequest, TraceRequest
from cache.engine import TracerEngine
from pages.shared import progress as waiting
from pages.shared import resources
from pages.shared import session as session_module
from pages.shared.session import read_session, update_session
from tracer.errors import ModelError
from tracer.types import Progress

OFF = {
    "name": "Texas off",
    "edits": [{"feature": [1, 887], "start": 7, "stop": 8, "operation": "scale", "value": 0}],
    "freeze_attention": True,
    "constrained_layers": None,
}
MAIN = Path(__file__).resolve().parents[3] / "pages" / "shell" / "main.py"
INTERVENTIONS = str(MAIN.parents[1] / "interventions" / "page.py")


@pytest.fixture
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CIRCUIT_STORE", str(tmp_path / "store"))
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show progress soon, and often: every wait of this file is longer than that."""
    monkeypatch.setattr(waiting, "PATIENCE", 0.1)
    monkeypatch.setattr(waiting, "POLL", 0.1)


def visitor() -> AppTest:
    """A new visitor, who has not opened a page yet."""
    return AppTest.from_file(str(MAIN), default_timeout=120)


def finish_queue() -> None:
    for job in resources.backend().queue:
        job.wait(120)


def text_of(app: AppTest) -> str:
    return "\n".join(part.value for part in [*app.markdown, *app.caption, *app.info])


class HeldTraces:
    """Holds every trace inside the engine until the test lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[str] = []
        self.gate = threading.Event()
        trace = TracerEngine.trace

        def held(engine: TracerEngine, model: Any, request: TraceRequest, report: Progress) -> Any:
            self.started.append(request.prompt)
            assert self.gate.wait(60)
            report(0, 1, "tracing")  # where a cancelled job stops
            return trace(engine, model, request, report)

        monkeypatch.setattr(TracerEngine, "trace", held)

    def wait_until_started(self) -> None:
        end = time.monotonic() + 60
        while not self.started:
            assert time.monotonic() < end, "the trace never started"
            time.sleep(0.01)


@pytest.fixture
def held(empty_store: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldTraces]:
    traces = HeldTraces(monkeypatch)
    yield traces
    traces.gate.set()
    finish_queue()


def test_a_slow_failure_is_reported_once_and_not_retried_by_a_redraw(
    empty_store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    gate = threading.Event()

    def load(self: TracerEngine, choice: object, progress: object) -> None:
        opened.append(str(choice))
        assert gate.wait(60)
        raise ModelError(f"layer 3 is missing, found at try {len(opened)}")

    monkeypatch.setattr(TracerEngine, "load", load)
    app = visitor().run()
    assert not app.error and not app.exception
    assert len(app.get("progress")) == 1
    gate.set()
    finish_queue()
    app.run()  # as the page does by itself once the work has ended
    assert [error.value for error in app.error] == ["Layer 3 is missing, found at try 1\\."]
    app.run()
    assert [error.value for error in app.error] == ["Layer 3 is missing, found at try 1\\."]


def test_a_slow_scenario_shows_its_progress_and_its_outcome_in_one_run(
    empty_store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenarios, bar, gate = TracerEngine.scenarios, waiting.bar, threading.Event()

    def slow(self: TracerEngine, model: Any, request: ScenarioRequest, progress: Progress) -> Any:
        progress(1, 3, "scenarios")
        assert gate.wait(60), "its progress was never shown"
        return scenarios(self, model, request, progress)

    def shown(job: Job[Any], what: str = "") -> None:
        bar(job, what)
        if job.progress == (1, 3, "scenarios"):
            gate.set()

    monkeypatch.setattr(waiting, "bar", shown)
    monkeypatch.setattr(TracerEngine, "scenarios", slow)
    app = visitor()
    app.query_params["scenarios"] = json.dumps([OFF])
    app.run()
    finish_queue()  # the trace, watched by a fragment
    assert not gate.is_set()
    app.switch_page(INTERVENTIONS).run()
    assert not app.exception and not app.error
    assert gate.is_set()
    assert any("Baseline" in heading.value for heading in app.markdown)
    assert not app.get("progress")


def test_only_the_running_and_the_latest_request_of_a_moved_slider_are_worked_on(
    empty_store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenarios, bar = TracerEngine.scenarios, waiting.bar
    gate, started, waiting_jobs = threading.Event(), [], []
    strengths = [-1.0, -2.0, -3.0]

    def held(self: TracerEngine, model: Any, request: ScenarioRequest, progress: Progress) -> Any:
        started.append(request.scenarios[0].edits[0].value)
        assert gate.wait(60)
        return scenarios(self, model, request, progress)

    def move_the_slider(job: Job[Any], what: str = "") -> None:
        """Interrupt the run that waits, as the browser does, then let the engine go on."""
        if started and strengths:
            [scenario] = read_session().scenarios
            edit = replace(scenario.edits[0], value=strengths.pop(0))
            update_session(scenarios=(replace(scenario, edits=(edit,)),))
            context = get_script_run_ctx()
            context.script_requests.request_rerun(
                RerunData(context.query_string, page_script_hash=context.page_script_hash)
            )
        elif started and not gate.is_set():
            waiting_jobs.extend(resources.backend().queue)
            gate.set()
        bar(job, what)

    app = visitor()
    app.query_params["scenarios"] = json.dumps([OFF])
    app.run()
    finish_queue()
    monkeypatch.setattr(TracerEngine, "scenarios", held)
    monkeypatch.setattr(waiting, "bar", move_the_slider)
    app.switch_page(INTERVENTIONS).run()
    assert not app.exception and not app.error
    ran = [j for j in waiting_jobs if j.state == "cancelled" or hasattr(j.result(), "baseline")]
    assert len(ran) == 2  # next to the estimate for the prompt's options
    assert started[:2] == [0.0, -3.0]
    assert "−3× about Texas" in text_of(app)


def test_a_scenario_that_is_asked_for_again_keeps_running(
    empty_store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A click that changes nothing, such as opening a popover, does not restart the work."""
    scenarios, bar = TracerEngine.scenarios, waiting.bar
    gate, started, redraws = threading.Event(), [], [1, 2]

    def held(self: TracerEngine, model: Any, request: ScenarioRequest, progress: Progress) -> Any:
        started.append(request)
        assert gate.wait(60)
        return scenarios(self, model, request, progress)

    def redraw(job: Job[Any], what: str = "") -> None:
        if started and redraws:
            redraws.pop()
            context = get_script_run_ctx()
            context.script_requests.request_rerun(
                RerunData(context.query_string, page_script_hash=context.page_script_hash)
            )
        elif started:
            gate.set()
        bar(job, what)

    app = visitor()
    app.query_params["scenarios"] = json.dumps([OFF])
    app.run()
    finish_queue()
    monkeypatch.setattr(TracerEngine, "scenarios", held)
    monkeypatch.setattr(waiting, "bar", redraw)
    app.switch_page(INTERVENTIONS).run()
    assert not app.exception and not redraws
    assert len([request for request in started if request == started[0]]) == 1


@pytest.fixture
def session_state(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The state of a visitor without a page."""
    state: dict[str, Any] = {}
    monkeypatch.setattr(waiting.st, "session_state", state)
    monkeypatch.setattr(session_module.st, "session_state", state)
    return state


def wanted_job() -> Job[int]:
    job = Job[int]("key")
    job.join(session_module.visitor_id())
    return job


def interrupt(monkeypatch: pytest.MonkeyPatch, how: type[BaseException]) -> None:
    """End every run that shows progress, as Streamlit does through the elements it draws."""

    def progress(*args: object, **kwargs: object) -> None:
        raise how

    monkeypatch.setattr(waiting.st, "progress", progress)
    monkeypatch.setattr(waiting, "PATIENCE", 0.01)
    monkeypatch.setattr(waiting, "POLL", 0.01)


class Interrupted(BaseException):
    """A click, as far as a run that waits is concerned."""


def test_leaving_the_page_cancels_what_it_waited_for_unless_the_result_is_stored(
    session_state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, Interrupted)
    scenario, trace = wanted_job(), wanted_job()
    for slot, job, finish in (("scenario", scenario, False), ("trace", trace, True)):
        with pytest.raises(Interrupted):
            waiting.wait_for(job, slot, finish=finish)
    waiting.cancel_abandoned()  # at the end of a run that waited for neither
    assert (scenario.state, trace.state) == ("cancelled", "queued")
    other = wanted_job()
    with pytest.raises(Interrupted):
        waiting.wait_for(other, "trace", finish=True)
    assert (trace.state, other.state) == ("cancelled", "queued")


def test_a_stopped_script_cancels_what_it_waited_for(
    session_state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, StopException)
    scenario, trace = wanted_job(), wanted_job()
    with pytest.raises(StopException):
        waiting.wait_for(scenario, "scenario")
    with pytest.raises(StopException):
        waiting.wait_for_all([trace], "traces", "Tracing", finish=True)
    assert (scenario.state, trace.state) == ("cancelled", "queued")


def _waiting_page() -> None:
    import time

    import streamlit as st
    from streamlit.runtime.scriptrunner import RerunData, get_script_run_ctx

    from pages.shared import progress

    class Endless:
        """A job during which the visitor clicks."""

        clicked = False

        def wait(self, seconds: float) -> bool:
            if not self.clicked:  # not in the session state: to look at it would end the run
                self.clicked = True
                context = get_script_run_ctx()
                context.script_requests.request_rerun(RerunData(context.query_string))
            time.sleep(seconds)
            return False

    if "since" not in st.session_state:
        st.session_state["since"] = time.monotonic()
        progress.ends_within(Endless(), 5)
    st.session_state["took"] = time.monotonic() - st.session_state["since"]


def test_a_click_interrupts_a_wait_at_once() -> None:
    app = AppTest.from_function(_waiting_page, default_timeout=20).run()
    assert not app.exception
    assert app.session_state["took"] < 2


def test_a_wait_ends_well_when_the_run_of_an_earlier_click_ends_in_its_midst(
    session_state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both runs wait in the same place, and Streamlit lets them overlap."""
    job = wanted_job()

    def wait(seconds: float | None = None) -> bool:
        if job.state == "queued":
            job.cancel(session_module.visitor_id())
            waiting.wait_for(job, "carried by")
        return True

    monkeypatch.setattr(job, "wait", wait)
    waiting.wait_for(job, "carried by")
    assert job.state == "cancelled"


def test_cancelling_leaves_other_visitors_work_alone(
    session_state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = wanted_job()
    job.join("somebody else")
    waiting.cancel(job)
    assert job.state == "queued"
    job.cancel("somebody else")
    assert job.state == "cancelled"


def test_a_reloaded_page_can_still_cancel(
    session_state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload makes a new visitor; the old one is gone and cannot keep the work alive."""
    job = wanted_job()
    old = session_module.visitor_id()
    session_state.clear()
    job.join(session_module.visitor_id())
    assert session_module.visitor_id() != old
    monkeypatch.setattr(session_module, "departed_visitors", lambda: [old])
    waiting.cancel(job)
    assert job.state == "cancelled"


def test_a_cancel_stops_one_visitors_trace_and_not_anothers(held: HeldTraces) -> None:
    first, second = visitor().run(), visitor().run()
    held.wait_until_started()
    running = [job for job in resources.backend().queue if job.state == "running"]
    [job] = [job for job in running if "Dallas" in job.title]
    first.button(key="cancel").click().run()
    assert not first.exception
    held.gate.set()
    assert job.wait(60) and job.state == "done"
    second.run()
    assert "**Austin**" in text_of(second)


def test_a_trace_survives_redraws(held: HeldTraces) -> None:
    app = visitor().run()
    held.wait_until_started()
    for _ in range(2):
        app.run()
    app.switch_page(str(MAIN.parents[1] / "guide" / "page.py")).run()
    held.gate.set()
    finish_queue()
    assert held.started == ["The capital of the state containing Dallas is"]
    app.switch_page(str(MAIN.parents[1] / "trace" / "page.py")).run()
    assert "**Austin**" in text_of(app)


def test_a_cancelled_first_trace_is_not_started_again_by_itself(held: HeldTraces) -> None:
    app = visitor().run()
    held.wait_until_started()
    app.button(key="cancel").click().run()
    held.gate.set()
    finish_queue()
    app.run()
    assert len(held.started) == 1
    assert "Tracing was cancelled" in text_of(app)
    app.button(key="trace again").click().run()
    finish_queue()
    assert "**Austin**" in text_of(app.run())
