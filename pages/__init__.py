"""One folder per page, each thin: read the session, ask `cache`, draw with `charts`."""
