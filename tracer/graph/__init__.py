"""The attribution graph as data: node order, influence, pruning and comparison. No torch."""
