"""Tissue and tiles: their positions on a slide, their pixels, and the HDF5 file that stores them."""
