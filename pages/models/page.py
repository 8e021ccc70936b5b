"""The Models page: which models can be opened, and what they need."""

from pages.models import view

view.draw()
