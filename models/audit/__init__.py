"""Whether a score reads the label from the slide, or what goes along with the label."""
