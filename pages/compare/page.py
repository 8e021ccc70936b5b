"""The Compare page: two graphs merged into one."""

from pages.compare import view

view.draw()
