"""Search a complete feature dictionary: by words, by text, by token, by weights."""
