"""A bounded memory of values that are worth with_nodes decoded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lru(Generic[K, V]):
    """A mapping that forgets what was used longest ago once its values outweigh ``capacity``.

    ``weigh`` gives the weight of a value (1 each by default). A value heavier than the whole
    capacity is not kept at all. Safe to share between threads.
    """

    def __init__(self, capacity: int, weigh: Callable[[V], int] = lambda value: 1) -> None:
        self._capacity = capacity
        self._weigh = weigh
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value under ``key``, now the most recently used one, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: K, value: V) -> None:
        """Keep ``value``, and forget the least recently used ones until everything fits."""
        weight = self._weigh(value)
        with self._lock:
            self._forget(key)
            if weight > self._capacity:
                return
            self._entries[key] = (value, weight)
            self._weight += weight
            while self._weight > self._capacity:
                self._forget(next(iter(self._entries)))

    def drop(self, key: K) -> None:
        """Forget ``key``, if it is known."""
        with self._lock:
            self._forget(key)

    def _forget(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._weight -= entry[1]
