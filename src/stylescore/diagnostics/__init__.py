"""Describes this machine, and estimates what a run needs on it."""
