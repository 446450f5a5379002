"""Running a stage: what is to be done, where it runs, and what is recorded."""
