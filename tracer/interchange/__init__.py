"""Graphs of other tools: published JSON in three flavours, and circuit-tracer's ``.pt``."""
