"""What can be opened, where its files are, and how they are downloaded. No torch."""
