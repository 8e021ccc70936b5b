"""Navigation, sidebar and style, which surround every page."""
