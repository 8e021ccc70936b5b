"""The Features page: every active feature of a trace, the complete dictionary, one feature."""

from pages.features import view

view.draw()
