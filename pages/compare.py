"""The Compare page: two graphs in one, what they share and what is each one's own."""

from pages import _compare

_compare.draw()
