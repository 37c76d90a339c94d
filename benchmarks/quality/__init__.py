"""How good a model's stylization is: pictures by several methods, judged by figures.

`python -m benchmarks.quality` makes the pictures, judges them and prints a table; `__main__` tells the options.
"""
