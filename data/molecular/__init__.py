"""Molecular measurements: reading matrices, their units, genes and patients, and the store."""
