"""Atlas, the embedded model: its facts, its training, its weights and its feature index."""
