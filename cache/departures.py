"""`Departures`: withdraw the requests of visitors who have left."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

logger = logging.getLogger(__name__)

_POLL: Final = 1.0
GRACE: Final = 3.0
"""Seconds that a visitor may be gone, as during a reload."""


class Departures:
    """A thread that asks who has left, and withdraws what they wanted after a grace period."""

    def __init__(
        self,
        departed: Callable[[], Iterable[str]],
        withdraw: Callable[[str], int],
        poll: float = _POLL,
        grace: float = GRACE,
    ) -> None:
        self._departed = departed
        self._withdraw = withdraw
        self._poll, self._grace = poll, grace
        self._gone: dict[str, float] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._loop, name="departures", daemon=True).start()

    def close(self) -> None:
        """End the thread soon."""
        self._closed.set()

    def _loop(self) -> None:
        while not self._closed.wait(self._poll):
            try:
                self.look()
            except Exception:  # the next look may work
                logger.exception("departed visitors could not be listed")

    def look(self) -> None:
        """Withdraw the requests of those who have been gone for long enough."""
        now = time.monotonic()
        self._gone = {visitor: self._gone.get(visitor, now) for visitor in self._departed()}
        for visitor, since in self._gone.items():
            if now - since >= self._grace:
                count = self._withdraw(visitor)
                if count:
                    logger.info("a visitor left: %d requests withdrawn", count)
