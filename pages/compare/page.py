"""The Compare page: two graphs side by side, and merged into one."""

from pages.compare import view

view.draw()
