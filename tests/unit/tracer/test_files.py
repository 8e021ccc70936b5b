"""Files are written completely or not at all, and sizes are shown in decimal units."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tracer.files import atomic_write, format_bytes, replacing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic_write(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_threads_can_write_the_same_file(tmp_path: Path) -> None:
    path, errors = tmp_path / "a.bin", []

    def write(letter: bytes) -> None:
        try:
            for _ in range(50):
                atomic_write(path, letter * 4096)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(set(path.read_bytes())) == 1 and path.stat().st_size == 4096
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (999, "999 bytes"),
        (1_840, "1.8 kB"),
        (81_000, "81.0 kB"),
        (999_700, "1.0 MB"),
        (512_000_000, "512 MB"),
        (14_383_000_000, "14.4 GB"),
        (1_200_000_000_000, "1,200 GB"),
    ],
)
def test_sizes_are_decimal_with_about_three_digits(size: int, text: str) -> None:
    assert format_bytes(size) == text
