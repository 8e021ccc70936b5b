"""The commands of ``python -m tracer``, one module a command."""
