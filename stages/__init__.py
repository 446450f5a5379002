"""One module a stage: tile, extract, genomics, split, train, cross_validate, predict, report."""
