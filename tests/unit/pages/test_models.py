"""The Models page without a browser: the device that models run on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from cache import Backend, Device
from cache.engine import TracerEngine
from pages.models.device_choice import device_sentence
from pages.shared import resources

ROOT = Path(__file__).resolve().parents[3]
TWO_GPUS = (
    Device("auto", "cuda", "auto: CUDA is available"),
    Device("cpu", "16 cores"),
    Device("cuda:0", "NVIDIA H100, 85.0 GB"),
    Device("cuda:1", "NVIDIA A100, 42.5 GB"),
)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    monkeypatch.setenv("CIRCUIT_STORE", str(tmp_path / "store"))
    st.cache_resource.clear()
    app = AppTest.from_file(str(ROOT / "pages" / "shell" / "main.py"), default_timeout=60)
    app.query_params["graph"] = "0" * 32  # a graph that does not exist: nothing is traced
    app.run()  # registers the pages
    yield app
    st.cache_resource.clear()


def opened(app: AppTest) -> AppTest:
    """The Models page, once all devices are listed."""
    app.switch_page(str(ROOT / "pages" / "models" / "page.py")).run()
    end = time.monotonic() + 60
    while any("Looking for" in caption.value for caption in app.caption):
        assert time.monotonic() < end, "the devices were never listed"
        time.sleep(0.1)
        app.run()
    return app


def captions(app: AppTest) -> str:
    return "\n".join(caption.value.replace("\\", "") for caption in app.caption)


def test_the_device_in_use_is_shown_with_the_reason(app: AppTest) -> None:
    opened(app)
    assert not app.exception
    assert app.segmented_control(key="device").value == "auto"
    assert "auto uses " in captions(app)


def test_choosing_a_device_sets_it_for_the_backend(app: AppTest) -> None:
    opened(app)
    app.segmented_control(key="device").set_value("cpu").run()
    assert not app.exception
    assert resources.backend().device_name == "cpu"
    assert app.segmented_control(key="device").value == "cpu"
    assert "cpu: " in captions(app) and "auto uses" not in captions(app)


def test_a_device_that_cannot_be_used_is_refused_in_a_sentence(
    app: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    unplugged = (*TWO_GPUS, Device("cuda:99", "an external GPU"))
    monkeypatch.setattr(TracerEngine, "devices", lambda engine: unplugged)
    opened(app)
    app.segmented_control(key="device").set_value("cuda:99").run()
    assert not app.exception
    assert resources.backend().device_name == "auto"
    assert app.segmented_control(key="device").value == "auto"
    assert len(app.toast) == 1 and "cuda\\:99" in app.toast[0].value


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ("auto", "auto uses cuda:0 (NVIDIA H100, 85.0 GB): CUDA is available."),
        ("cuda:1", "cuda:1: NVIDIA A100, 42.5 GB."),
        ("mps", "mps."),
        ("cpu", "cpu: 16 cores."),
    ],
)
def test_the_sentence_names_the_device_and_the_reason(chosen: str, text: str) -> None:
    assert device_sentence(TWO_GPUS, chosen) == text


def test_the_page_does_not_wait_for_the_devices_to_be_listed(
    app: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_auto = (Device("auto", ""), Device("cpu", "2 cores"))
    monkeypatch.setattr(Backend, "devices", lambda backend: only_auto)
    app.switch_page(str(ROOT / "pages" / "models" / "page.py")).run()
    assert not app.exception
    assert "Looking for other devices …" in captions(app)


def test_a_wrong_environment_variable_is_shown_as_the_reason() -> None:
    auto = Device("auto", "", "CIRCUIT_DEVICE 'cuda:7' is not available on this machine")
    assert device_sentence((auto,), "auto") == f"auto: {auto.reason}."
