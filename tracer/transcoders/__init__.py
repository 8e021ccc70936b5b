"""Per-layer and cross-layer transcoders, and the published layouts they are read from."""
