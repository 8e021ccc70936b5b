"""Hooks for the duration of one forward pass of a transformer-lens bridge.

The library's own ``run_with_hooks`` lists every hook point of the model, under each of its names,
anew for each pass. With a small model that takes about a sixth of the pass. Here each name is
looked up once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from torch import Tensor
from transformer_lens.model_bridge.bridge_core import build_alias_to_canonical_map

Hook = Callable[[Tensor, Any], Tensor | None]
"""Called with the value and its hook point; what it returns takes the place of the value."""


class Hooks:
    """The hook points of a model, by name.

    The points of a model are fixed once it is open.
    """

    def __init__(self, bridge: Any) -> None:
        self._bridge = bridge
        self._looked_up: dict[str, Any] = {}

    @cached_property
    def points(self) -> dict[str, Any]:
        """Every hook point, under each of its names."""
        points: dict[str, Any] = self._bridge.hook_dict
        return points

    @cached_property
    def _aliases(self) -> dict[str, str]:
        aliases: dict[str, str] = build_alias_to_canonical_map(self.points)
        return aliases

    def _point(self, name: str) -> Any:
        """Return the hook point of this name; the library raises its own error if there is none."""
        if name not in self._looked_up:
            _, point = self._bridge._resolve_hook_point(name, self._aliases, self.points)
            self._looked_up[name] = point
        return self._looked_up[name]

    @contextmanager
    def added(self, hooks: Iterable[tuple[str, Hook]]) -> Iterator[None]:
        """Add forward hooks, and remove these and no others at exit."""
        handles: list[tuple[Any, Any]] = []
        try:
            for name, hook in hooks:
                point = self._point(name)
                self._bridge.check_hooks_to_add(point, name, hook)
                handles.append((point, point.add_hook(hook)))
            yield
        finally:
            for point, handle in handles:
                self._bridge._remove_temporary_hook(point, "fwd", handle)
