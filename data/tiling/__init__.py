"""Tissue and tiles: where they lie on a slide, their pixels, and the HDF5 file that keeps them."""
