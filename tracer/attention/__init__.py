"""Which heads carry an edge, and why a head looks where it looks. Importing this loads no torch."""
