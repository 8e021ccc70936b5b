"""Bounded caches, and how large the values in them are."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest

from cache.memory import BoundedCache, held_bytes


def test_the_least_recently_used_value_is_evicted() -> None:
    cache: BoundedCache[str, int] = BoundedCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_the_limit_is_on_the_total_size() -> None:
    cache: BoundedCache[str, bytes] = BoundedCache(10, len)
    cache.put("a", b"123456")
    cache.put("b", b"1234")
    assert (cache.get("a"), cache.get("b")) == (b"123456", b"1234")
    cache.put("c", b"1")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (None, b"1234", b"1")


def test_a_value_larger_than_the_limit_is_not_kept_and_evicts_nothing() -> None:
    cache: BoundedCache[str, bytes] = BoundedCache(10, len)
    cache.put("a", b"1")
    cache.put("b", b"x" * 11)
    assert (cache.get("a"), cache.get("b")) == (b"1", None)


def test_a_value_that_is_put_twice_counts_once() -> None:
    cache: BoundedCache[str, bytes] = BoundedCache(10, len)
    for _ in range(5):
        cache.put("a", b"123456")
    cache.put("b", b"1234")
    assert (cache.get("a"), cache.get("b")) == (b"123456", b"1234")


@dataclass(frozen=True)
class Result:
    logits: np.ndarray
    labels: dict[int, list[str]]


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.ones(50_000, np.float32),
        lambda: np.ones((100, 500), np.float32)[-1],
        lambda: [f"a label of feature {number}" for number in range(3_000)],
        lambda: Result(np.ones(9_000), {n: [f"label {n}", f"label {n} again"] for n in range(500)}),
    ],
)
def test_the_counted_size_is_what_the_value_takes(make) -> None:
    held_bytes(make())  # so that imports and caches are not measured
    tracemalloc.start()
    value = make()
    measured = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.8 * measured < held_bytes(value) < 1.25 * measured


def test_parts_that_are_shared_count_once() -> None:
    logits = np.ones((4, 10_000), np.float32)
    assert held_bytes(list(logits)) < 1.01 * held_bytes(logits)
