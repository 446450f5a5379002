"""``python -m wsipipe``: the package's path leads to this folder too, because the root holds no module but its own."""
