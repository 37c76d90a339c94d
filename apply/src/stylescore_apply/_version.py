"""The version of this distribution; the same as that of stylescore, from whose repository it is made."""

__version__ = "0.1.0"
