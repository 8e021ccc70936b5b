"""The Interventions page: what-ifs about a prompt, side by side."""

from pages.interventions import view

view.draw()
