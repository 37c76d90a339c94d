"""Asks people: a small local page for blind pairwise votes between folders of pictures, and what follows from them.

Standard library only, besides Pillow and NumPy.
"""
