"""Tasks: the kinds of questions that a model answers, one file each behind one interface."""
