"""``python -m wsipipe``, the same as the command ``wsipipe``; it runs as ``wsipipe.__main__``."""

from importlib import import_module

if __name__ == "__main__":
    import_module("wsipipe.pipeline.entry").main()
