"""The Trace page: a prompt, its graph, and what a feature of it is."""

from pages import _trace

_trace.draw()
