"""The device part of `Backend`."""

from __future__ import annotations

from typing import Generic

from cache.engine import M
from cache.machine import Device
from cache.worker import Worker


class DeviceControl(Generic[M]):
    """Lists this machine's devices and chooses the one that models are opened on."""

    _worker: Worker[M]

    @property
    def device_name(self) -> str:
        """The device that models are opened on, or ``"auto"``."""
        return self._worker.engine.device_name

    def devices(self) -> tuple[Device, ...]:
        """Return the devices of this machine, ``auto`` first. Imports torch on its first call."""
        return self._worker.engine.devices()

    def set_device(self, name: str) -> None:
        """Open models on another device from now on; those that are open are unloaded.

        Raises :class:`ModelError` when this machine does not have the device.
        """
        if name != self.device_name:
            self._worker.engine.set_device(name)
            for choice in self._worker.opened:
                self._worker.unload(choice)
