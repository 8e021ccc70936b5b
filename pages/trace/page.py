"""The Trace page: a prompt, its graph, and what a feature of it is."""

from pages.trace import view

view.draw()
