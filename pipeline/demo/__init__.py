"""The demo: a small synthetic cohort, and a run of the whole chain on it."""
