"""train: splits the cohort, trains a model a fold, cross-validates and reports."""
