"""From a folder, a single file or a hub id to a model's networks."""
