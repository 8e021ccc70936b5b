"""Compute an attribution graph: frozen forward pass, backward walk, direct effects."""
