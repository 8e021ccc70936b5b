"""Navigation, sidebar and style: what surrounds every page."""
