"""The Library page: every graph that is kept."""

from pages.library import view

view.draw()
