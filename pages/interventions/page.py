"""The Interventions page: scenarios on a prompt, side by side."""

from pages.interventions import view

view.draw()
