"""Remote workers share one queue, and what a lost one was doing is done again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from fakes import FakeEngine, FakeFolders, until
from small_graphs import make_graph

from cache import Backend, ModelChoice, TraceRequest
from cache.many import trace_many
from cache.prompt_file import Prompt
from cache.request import identity
from cache.trace_pool import ATTEMPTS, Traced, WorkerLost
from tracer.errors import Cancelled, TracerError

CHOICE = ModelChoice("fake", "set")


class FakeRemote:
    """A worker in a thread's clothes: it answers when it is asked for the result."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.request = TraceRequest("")
        self.cancelled = False

    def submit(self, request: TraceRequest) -> None:
        self.request, self.cancelled = request, False
        self.plan.traced.append(request.prompt)

    def progress(self) -> tuple[int, int, str]:
        return (1, 2, "direct effects")

    def result(self, timeout: float) -> Traced | None:
        self.plan.before(self.request.prompt)
        if self.cancelled:
            raise Cancelled("it stopped")
        if not self.plan.go.wait(min(timeout, 0.01)):
            return None
        source = self.plan.folders(CHOICE.model, CHOICE.transcoders)
        tokens = self.plan.tokens(self.request.prompt)
        files = identity(source, self.request.choice)
        return Traced(files, tokens, make_graph(self.request.prompt, tokens).to_bytes())

    def cancel(self) -> None:
        self.cancelled = True

    def close(self) -> None:
        self.plan.closed += 1


class Plan:
    """What the fake workers do."""

    def __init__(self, folders: FakeFolders, tokens: Callable[[str], tuple[int, ...]]) -> None:
        self.folders, self.tokens = folders, tokens
        self.before: Callable[[str], None] = lambda prompt: None
        self.go = threading.Event()
        self.traced: list[str] = []
        self.started = 0
        self.closed = 0

    def start(self) -> FakeRemote:
        self.started += 1
        return FakeRemote(self)


@pytest.fixture
def plan(folders: FakeFolders, engine: FakeEngine) -> Plan:
    def tokens(prompt: str) -> tuple[int, ...]:
        return engine.load(CHOICE, lambda *_: None).encode(prompt)

    return Plan(folders, tokens)


@pytest.fixture
def pooled(backend: Backend, plan: Plan) -> Iterator[Backend]:
    backend.trace_on(plan.start, 2)
    yield backend
    plan.go.set()


def ask(backend: Backend, prompt: str, session: str = ""):
    return backend.trace(TraceRequest(prompt, CHOICE), session)


def test_many_prompts_equal_the_serial_run(
    pooled: Backend, plan: Plan, open_again: Callable[[], Backend]
) -> None:
    plan.go.set()
    prompts = [Prompt(number, f"prompt a{number} b{number}") for number in range(200)]
    rows = list(trace_many(pooled, prompts, CHOICE))
    assert [row.state for row in rows] == ["done"] * 200 and plan.started == 2
    for row in rows:
        graph = pooled.graph(row.key)
        assert graph is not None
        assert graph.to_bytes() == make_graph(row.prompt, plan.tokens(row.prompt)).to_bytes()
    assert len(pooled.stored()) == 200


def test_a_lost_worker_loses_nothing(pooled: Backend, plan: Plan) -> None:
    lost: set[str] = set()

    def lose_once(prompt: str) -> None:
        if prompt.endswith("3") and prompt not in lost:
            lost.add(prompt)
            raise WorkerLost("the machine is gone")

    plan.before = lose_once
    plan.go.set()
    prompts = [Prompt(number, f"prompt {number}") for number in range(40)]
    rows = list(trace_many(pooled, prompts, CHOICE))
    assert [row.state for row in rows] == ["done"] * 40
    assert len(lost) == 4 and plan.started == 2 + 4


def test_a_prompt_that_loses_every_worker_fails_alone(pooled: Backend, plan: Plan) -> None:
    def lose(prompt: str) -> None:
        if prompt == "cursed":
            raise WorkerLost("out of memory")

    plan.before = lose
    plan.go.set()
    with pytest.raises(TracerError, match=f"{ATTEMPTS} workers were lost"):
        ask(pooled, "cursed").result(10)
    assert ask(pooled, "fine").result(10).prompt == "fine"
    assert ask(pooled, "cursed").state == "failed" and plan.traced.count("cursed") == ATTEMPTS
    plan.before = lambda prompt: None
    pooled.retry(ask(pooled, "cursed"))
    assert ask(pooled, "cursed").result(10).prompt == "cursed"


def test_a_running_job_shows_its_progress_and_can_be_cancelled(pooled: Backend, plan: Plan) -> None:
    job = ask(pooled, "slow", "a")
    until(lambda: job.progress == (1, 2, "direct effects"))
    begun = time.monotonic()
    job.cancel("a")
    with pytest.raises(Cancelled):
        job.result(10)
    assert time.monotonic() - begun < 1
    plan.go.set()
    assert ask(pooled, "next").result(10).prompt == "next"


def test_two_run_at_a_time_and_sessions_take_turns(pooled: Backend, plan: Plan) -> None:
    jobs = [ask(pooled, f"long {number}", "busy") for number in range(5)]
    until(lambda: sum(job.state == "running" for job in jobs) == 2)
    short = ask(pooled, "short", "other")
    assert short.place == 1 and len(pooled.queue) == 6
    assert pooled.withdraw("busy") == 5
    plan.go.set()
    assert short.result(10).prompt == "short"


def test_the_same_request_runs_once(pooled: Backend, plan: Plan) -> None:
    first, second = ask(pooled, "same", "a"), ask(pooled, "same", "b")
    assert first is second
    plan.go.set()
    first.result(10)
    assert plan.traced == ["same"] and ask(pooled, "same").from_cache


def test_other_files_of_a_model_are_refused(
    pooled: Backend, plan: Plan, folders: FakeFolders
) -> None:
    job = ask(pooled, "a prompt")
    folders.fingerprints["fake"] = "other files"
    plan.go.set()
    with pytest.raises(TracerError, match="has other files of fake"):
        job.result(10)
    assert pooled.stored() == ()
