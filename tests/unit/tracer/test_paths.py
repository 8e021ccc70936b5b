"""Everything this project keeps is in one folder, which the user can choose."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tracer import paths
from tracer.errors import TracerError


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CIRCUIT_HOME", "CIRCUIT_MODELS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.skipif(sys.platform != "linux", reason="the place differs between platforms")
def test_the_default_is_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert paths.home() == Path("/home/ada/.cache/circuit-tracing")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/cache")
    assert paths.home() == Path("/scratch/cache/circuit-tracing")


def test_circuit_home_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/cache")
    monkeypatch.setenv("CIRCUIT_HOME", "~/circuits")
    assert paths.home() == Path("/home/ada/circuits")
    assert paths.user_registry() == Path("/home/ada/circuits/models.yaml")
    monkeypatch.setenv("CIRCUIT_MODELS", "~/models.yaml")
    assert paths.user_registry() == Path("/home/ada/models.yaml")


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms always have a home")
def test_without_a_home_directory_the_message_names_circuit_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a container that runs under an id without an account."""

    def unknown(_: int) -> None:
        raise KeyError("no such account")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(TracerError, match="set CIRCUIT_HOME to a folder to use instead"):
        paths.home()
