"""The graphs that are kept: open, bring in, take away."""

from pages import _library

_library.draw()
