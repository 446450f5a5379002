"""The version of wsipipe."""

__version__ = "0.1.0"
