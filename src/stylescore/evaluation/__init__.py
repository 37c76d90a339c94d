"""Measures folders of stylized pictures: pairs them with their photos, finds weights, runs networks, reports figures.

The formulas and networks are those of `stylescore.metrics`.
"""
