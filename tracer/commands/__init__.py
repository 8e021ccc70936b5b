"""The commands of ``python -m tracer``, a module for those that belong together."""
