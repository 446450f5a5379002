"""Multiple-instance learning: networks that read a bag of tiles, and what only they use."""
