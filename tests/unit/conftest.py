"""Servers on this machine in place of those that are asked over the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer
from neuronpedia_server import NeuronpediaServer


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_hub() -> Iterator[None]:
    """Repeat a request that the hub did not answer without the seconds in between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tracer.hub.answers.WAITS", (0.0, 0.0))
        yield


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub on this machine with an empty cache, for this process and those it starts.

    Give it repositories with ``hub.add(repo, folder_or_contents)``. No token is stored.
    """
    from huggingface_hub import close_session, constants

    home = tmp_path / "hf_home"
    with HubServer() as server:
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "CIRCUIT_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        environment = {
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "CIRCUIT_HOME": str(tmp_path / "circuit_home"),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        # Read once, when the library is imported; other libraries go by them.
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        close_session()
        yield server
        close_session()


@pytest.fixture
def neuronpedia(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[NeuronpediaServer]:
    """A Neuronpedia on this machine that knows no feature yet: see ``answers``."""
    with NeuronpediaServer() as server:
        monkeypatch.setenv("NEURONPEDIA_URL", server.url)
        yield server
