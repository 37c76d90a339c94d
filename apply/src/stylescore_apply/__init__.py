"""Stylizes pictures and videos with a trained network, in one forward pass."""
