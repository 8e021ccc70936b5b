"""The Library page: all stored graphs."""

from pages.library import view

view.draw()
