"""Checking a workspace after something went wrong: ``wsipipe verify`` and ``wsipipe clean``."""
