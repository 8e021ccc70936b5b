"""The Trace page: a prompt, its attribution graph, and details of a node."""

from pages.trace import view

view.draw()
