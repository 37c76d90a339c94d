"""Reads pictures of any common format as upright sRGB, and writes them."""
