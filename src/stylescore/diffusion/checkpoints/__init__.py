"""Loads a model's components from a folder, a single file or the hub."""
