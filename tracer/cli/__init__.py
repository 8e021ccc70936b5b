"""The commands of ``python -m tracer``, one module for each or for a few that belong together."""
