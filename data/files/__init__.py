"""Files that may be damaged or from strangers: HDF5, zarr, packed files and tables, read within limits."""
