"""The Models page: what can be opened, what it takes, and opening it."""

from pages import _models

_models.draw()
