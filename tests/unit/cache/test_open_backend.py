"""Where the backend keeps its store, how large that may be, and how light the backend is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fakes import FakeEngine
from published import CONFIG

import cache
from cache import Backend, ModelChoice, StoreError, TraceRequest, open_backend, opening
from cache.store import Store
from tracer.catalog.resolve import resolve

_ASK_AGAIN = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from cache import ModelChoice, TraceRequest, open_backend
backend = open_backend(Path(sys.argv[2]))
job = backend.trace(TraceRequest("Dallas is", ModelChoice(sys.argv[3], sys.argv[4])))
assert job.from_cache and job.result().prompt == "Dallas is"
heavy = {"torch", "transformers", "transformer_lens", "streamlit", "plotly", "pandas"}
print(sorted(heavy & set(sys.modules)))
"""


def test_a_cached_request_needs_no_torch(tmp_path: Path, engine: FakeEngine) -> None:
    """Another process with the real engine finds the graph that was traced here."""
    model, transcoders = tmp_path / "model", tmp_path / "set"
    for folder, name in ((model, "config.json"), (transcoders, "config.yaml")):
        folder.mkdir()
        (folder / name).write_text(CONFIG)
    engine.folders = resolve
    backend = Backend(Store(tmp_path / "store"), engine, resolve)
    request = TraceRequest("Dallas is", ModelChoice(str(model), str(transcoders)))
    backend.trace(request).result(10)
    backend.close(10)
    root = Path(__file__).parents[3]
    arguments = [root, tmp_path / "store", model, transcoders]
    done = subprocess.run(
        [sys.executable, "-c", _ASK_AGAIN, *map(str, arguments)],
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_an_installed_package_keeps_its_store_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to be a hidden folder in site-packages."""
    monkeypatch.delenv("CIRCUIT_STORE", raising=False)
    monkeypatch.setenv("CIRCUIT_HOME", str(tmp_path / "home"))
    package = tmp_path / "site-packages" / "cache"
    package.mkdir(parents=True)
    monkeypatch.setattr(opening, "__file__", str(package / "opening.py"))
    assert opening.default_root() == tmp_path / "home" / "store"
    (tmp_path / "site-packages" / "pyproject.toml").touch()  # a checkout
    assert opening.default_root() == tmp_path / "site-packages" / ".store"


def test_the_environment_names_the_store_and_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIRCUIT_STORE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("CIRCUIT_STORE_GB", "0.5")
    backend = open_backend()
    assert backend.store.root == tmp_path / "elsewhere"
    assert backend.store.quota_bytes == 500_000_000
    backend.close()


@pytest.mark.parametrize("size", ["much", "-1", "0", "nan", "inf"])
def test_an_invalid_store_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    monkeypatch.setenv("CIRCUIT_STORE_GB", size)
    with pytest.raises(StoreError, match="expected a positive number"):
        open_backend(tmp_path)


def test_the_overview_of_the_package_lists_every_module() -> None:
    modules = {path.name for path in Path(cache.__file__).parent.glob("*.py")} - {"__init__.py"}
    listed = [line.split()[0] for line in (cache.__doc__ or "").splitlines() if ".py " in line]
    assert set(listed) == modules and len(listed) == len(modules)
