"""The guide: how to read a graph."""
