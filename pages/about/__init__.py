"""The About page: the method, its limits and the papers."""
