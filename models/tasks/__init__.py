"""Tasks: what a model answers, one file each behind one seam."""
