"""Features: the zarr store of each slide."""
