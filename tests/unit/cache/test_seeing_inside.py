"""What a person who runs the server can see: logs, health, diagnostics."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from fakes import FakeEngine

from cache import Backend, StoreError, TraceRequest
from cache.logs import JsonFormatter, session_digest


def test_every_job_is_one_line_with_its_phases(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="cache.requests"):
        job = backend.trace(TraceRequest("a secret prompt"), "anna")
        job.result(10)
        backend.close(10)
    (record,) = [entry for entry in caplog.records if entry.name == "cache.requests"]
    line = json.loads(JsonFormatter().format(record))
    assert line["request"] == job.key and line["sessions"] == [session_digest("anna")]
    assert line["message"] == "done" and {"tracing", "opening atlas"} <= line["phases"].keys()
    assert sum(line["phases"].values()) == pytest.approx(line["seconds"], abs=0.05)
    assert "secret" not in json.dumps(line) and "anna" not in json.dumps(line)


def test_diagnostics_are_json_without_prompts(backend: Backend, engine: FakeEngine) -> None:
    backend.trace(TraceRequest("a secret prompt")).result(10)
    gate = engine.hold()
    backend.trace(TraceRequest("another secret"))
    gate.wait_until_reached()
    backend.trace(TraceRequest("a secret prompt"))
    facts = backend.diagnostics()
    text = json.dumps(facts)
    assert "secret" not in text
    assert facts["requests"] == {"computed": 2, "known": 1}
    assert [entry["state"] for entry in facts["queue"]] == ["running"]
    assert facts["store"]["graphs"] == 1 and facts["versions"]["numpy"]
    assert facts["memory"]["process"] > 0


def test_the_health_endpoint_answers(backend: Backend) -> None:
    port = backend.serve_health(0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
        assert answer.status == 200 and json.load(answer)["ok"] is True
    backend._worker._lost = "cuda:0 stopped working"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
    with caught.value as failed:
        assert failed.code == 503 and json.load(failed)["problem"] == "cuda:0 stopped working"
    backend._worker._lost = ""
    with pytest.raises(StoreError, match="CIRCUIT_HEALTH_PORT"):
        backend.serve_health(port)


_OPEN_A_MODEL = """
import logging, sys
sys.path.insert(0, sys.argv[1])
from cache import ModelChoice, open_backend
from cache.logs import log_text
log_text()
log_text()
backend = open_backend(device="cpu")
backend.warm(ModelChoice()).result(100)
logging.getLogger("cache.requests").info("not shown")
logging.getLogger("tracer.anything").warning("shown")
backend.close(10)
"""


def test_the_terminal_shows_the_device_once_without_any_setting(tmp_path: Path) -> None:
    """Nothing configured logging, so the line was never seen."""
    environment = {**os.environ, "CIRCUIT_STORE": str(tmp_path / "store")}
    environment.pop("CIRCUIT_LOG", None)
    done = subprocess.run(
        [sys.executable, "-c", _OPEN_A_MODEL, str(Path(__file__).parents[3])],
        env=environment,
        capture_output=True,
        check=True,
        text=True,
    )
    lines = [line for line in done.stderr.splitlines() if "INFO" in line or "WARNING" in line]
    assert len(lines) == 2 and "INFO device: cpu" in lines[0] and "WARNING shown" in lines[1]
