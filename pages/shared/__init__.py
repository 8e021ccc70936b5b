"""What several pages share: the session, the backend, the prompt bar, progress."""
