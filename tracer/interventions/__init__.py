"""Edit features, run the model, and check a graph against what the model then does."""
