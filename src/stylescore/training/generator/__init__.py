"""Training a one-step generator: pairs made by the program, regression on them, then score matching on photos.

A generator that is given the photo alone cannot paint strokes by regression: where they lie is random, and their mean
is the photo. With the noise of the run that made a picture as its second input it can, so pairs are made by runs whose
noise is fixed (consistent_noise = 1), and the noise is drawn again from the pair's seed. Importing this package does
not import torch.
"""
