"""robustness: whether features tell the label, or the site."""
