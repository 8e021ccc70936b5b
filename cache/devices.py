"""The device part of `Backend`."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic

from cache.engine import M, usable_cores
from cache.machine import Device
from cache.worker import Worker

_GLANCE: Final = 0.05
"""Seconds that a page waits for the list of devices."""


class DeviceControl(Generic[M]):
    """Lists this machine's devices and chooses the one that models are opened on."""

    _worker: Worker[M]
    _look: Future[tuple[Device, ...]] | None = None

    @property
    def device_name(self) -> str:
        """The device that models are opened on, or ``"auto"``."""
        return self._worker.engine.device_name

    def devices(self) -> tuple[Device, ...]:
        """Return the devices to choose from, ``auto`` first; only it and the CPU at first.

        The others are listed once torch has been imported, which happens in the background.
        """
        if self._look is None:
            pool = ThreadPoolExecutor(1, "devices")
            self._look = pool.submit(self._worker.engine.devices)
            pool.shutdown(wait=False)
        try:
            return self._look.result(_GLANCE)
        except TimeoutError:
            return Device("auto", ""), Device("cpu", f"{usable_cores()} cores")

    def set_device(self, name: str) -> None:
        """Open models on another device from now on; those that are open are unloaded.

        Raises :class:`ModelError` when this machine does not have the device.
        """
        if name != self.device_name:
            self._worker.engine.set_device(name)
            for choice in self._worker.opened:
                self._worker.unload(choice)
