"""Multiple-instance learning: networks from a bag of tiles to a slide's logits, and their layers, losses and graphs."""
