"""Running a stage: deciding which items to run, running them here or in processes, recording results."""
