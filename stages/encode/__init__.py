"""encode: makes one vector of each slide from the features of its tiles."""
