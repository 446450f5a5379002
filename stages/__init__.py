"""One module a stage: tile, extract, genomics, split, train, evaluate, predict, report."""
