"""Measures the quality of a model's stylization: pictures by several methods, compared by figures.

`python -m benchmarks.quality` makes the pictures, computes the figures and prints a table; `__main__` has the options.
"""
