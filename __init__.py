"""wsipipe: from raw whole-slide images to a model that reads a molecular biomarker off an H&E slide."""

__version__ = "0.1.0"
