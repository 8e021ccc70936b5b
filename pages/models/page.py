"""The Models page: what can be opened, and what it needs."""

from pages.models import view

view.draw()
