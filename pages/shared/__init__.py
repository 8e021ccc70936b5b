"""What several pages share: session, backend, prompt bar, progress."""
