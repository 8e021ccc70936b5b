"""Which models can be opened, where their files are, and how they are downloaded. No torch."""
