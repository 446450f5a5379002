"""tile: finds the tissue on slides and cuts it into tiles."""
