"""One file per page, each thin: read the session, ask `cache`, give it to `charts`, draw."""
