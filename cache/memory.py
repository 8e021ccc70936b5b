"""`BoundedCache`: results kept in memory up to a limit, and how much memory a result holds."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
from cachetools import LRUCache

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """A least-recently-used cache behind a lock.

    ``size_of`` returns the size of a value (1 by default). A value larger than ``limit`` is not
    kept and evicts nothing.

    >>> cache: BoundedCache[str, bytes] = BoundedCache(10, len)
    >>> cache.put("a", b"123456")
    >>> cache.put("b", b"123456")
    >>> cache.get("a"), cache.get("b")
    (None, b'123456')
    """

    def __init__(self, limit: int, size_of: Callable[[V], int] | None = None) -> None:
        self._lock = threading.Lock()
        self._entries: LRUCache[K, V] = LRUCache(limit, size_of)

    def get(self, key: K) -> V | None:
        """Return the value under ``key`` and mark it as the most recently used, or None."""
        with self._lock:
            return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep ``value`` and evict the least recently used values until everything fits."""
        with self._lock:
            self._entries.pop(key, None)
            if self._entries.getsizeof(value) <= self._entries.maxsize:
                self._entries[key] = value


def held_bytes(value: object) -> int:
    """Return roughly how many bytes a result keeps alive: arrays, texts and containers.

    What several parts share counts once, and a view counts as the array that it keeps alive.

    >>> held_bytes(np.zeros(1000, np.float32)) // 1000
    4
    """
    return _held_bytes(value, set())


def _held_bytes(value: object, seen: set[int]) -> int:
    if isinstance(value, np.ndarray) and isinstance(value.base, np.ndarray):
        value = value.base
    if id(value) in seen:
        return 0
    seen.add(id(value))
    size = sys.getsizeof(value)
    if isinstance(value, np.ndarray):
        size = max(size, value.nbytes)
    return size + sum(_held_bytes(part, seen) for part in _parts(value))


def _parts(value: Any) -> Iterable[object]:
    if isinstance(value, Mapping):
        return [part for entry in value.items() for part in entry]
    if isinstance(value, tuple | list | set | frozenset):
        return value
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return ()
