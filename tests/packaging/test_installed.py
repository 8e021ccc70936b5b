"""``pip install .`` gives ``import tracer`` and ``circuit-tracing``, and litters nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_server import free_port

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "The capital of the state containing Dallas is"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the wheel was installed into, as it would be into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    # From a copy: building must not depend on what else lies in the checkout.
    source = folder / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", ".store", "__pycache__", "tests")
    shutil.copytree(ROOT, source, ignore=ignored)
    options = ["--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run([*pip, "wheel", *options], check=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def environment(site: Path, store: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(site), "CIRCUIT_STORE": str(store)}


def test_only_tracer_and_the_dashboards_folder_land_in_site_packages(site: Path) -> None:
    names = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"tracer", "circuit_tracing_dashboard", "bin"}
    assert not list(site.rglob("test_*.py"))


def test_the_command_traces_without_the_checkout(site: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, site / "bin" / "circuit-tracing", "trace", "--json", PROMPT],
        cwd=tmp_path,
        env=environment(site, tmp_path / "store"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["next_tokens"][0]["token"] == " Austin"


@pytest.fixture
def server(site: Path, tmp_path: Path) -> Iterator[str]:
    port = free_port()
    command = [site / "bin" / "circuit-tracing", "app", "--server.port", str(port)]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment(site, tmp_path / "store"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield f"http://localhost:{port}"
    process.terminate()
    process.wait(30)


def test_the_command_serves_the_dashboard(server: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{server}/_stcore/health", timeout=5) as answer:
                assert answer.read() == b"ok"
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_the_installed_dashboard_draws_its_first_page(site: Path, tmp_path: Path) -> None:
    script = site / "circuit_tracing_dashboard" / "pages" / "shell" / "main.py"
    code = (
        "from streamlit.testing.v1 import AppTest\n"
        f"app = AppTest.from_file({str(script)!r}, default_timeout=120).run()\n"
        "import cache, tracer\n"
        "print(not app.exception and not app.error, cache.__file__, tracer.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(site, tmp_path / "store"),
        capture_output=True,
        text=True,
        check=True,
    )
    drawn, *files = done.stdout.split()
    assert drawn == "True", done.stdout
    assert all(file.startswith(str(site)) for file in files)
