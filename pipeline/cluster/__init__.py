"""Running a stage's items on other machines that share the workspace, by Dask distributed."""
