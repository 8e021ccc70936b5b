"""The Features page."""
