"""The Interventions page: what-ifs about a prompt, side by side."""

from pages import _interventions

_interventions.draw()
