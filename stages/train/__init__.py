"""train: splits the cohort, trains one model per fold, cross-validates and reports."""
